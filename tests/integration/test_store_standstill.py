"""A process that stands still in the middle of a transaction keeps nobody else from its rows for ever."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.chassis.migrations import migrate
from services.chassis.store import STANDSTILL_MAX_S, Store, StoreUnavailable

pytestmark = [pytest.mark.integration, pytest.mark.promise("P2", "P3")]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store with the chassis's own tables."""
    opened = await Store.open(database_url, "plugins")
    await migrate(opened, ())
    yield opened
    await opened.close()


async def test_every_connection_of_a_service_has_the_limit(store: Store) -> None:
    """It is the session's, so it holds whatever the server's own is."""
    row = await store.fetchrow("SELECT current_setting('idle_in_transaction_session_timeout') AS within")
    assert row is not None
    assert row["within"] == f"{STANDSTILL_MAX_S}s"


async def test_a_transaction_that_stood_still_is_undone_and_its_rows_are_free(store: Store) -> None:
    """Whoever wakes in it hears that the store was away, and may decide again."""
    await store.fetch("INSERT INTO work (kind, key, payload) VALUES ('stage', 'one', '{}')")

    async def stand_still() -> None:
        async with store.transaction() as connection:
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '100ms'")
            await connection.execute("DELETE FROM work")
            await asyncio.sleep(1.0)
            await connection.execute("SELECT 1")

    with pytest.raises(StoreUnavailable):
        await stand_still()
    async with asyncio.timeout(5):
        left = await store.fetch("SELECT key FROM work FOR UPDATE")
    assert [row["key"] for row in left] == ["one"]
