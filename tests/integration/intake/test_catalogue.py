"""What intake knows of plugins and machines: read again only where it changed, and never older than the store."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from services.chassis.migrations import migrate
from services.chassis.run import no_announcements
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.intake.adapters import tables as module
from services.intake.adapters.tables import Tables
from services.intake.handlers import KNOW_MACHINE, KNOW_PLUGIN
from services.intake.main import migrations
from tests.integration.intake_desk import MACHINE, PLUGIN

pytestmark = pytest.mark.integration


class CountingStore(Store):
    """A store that counts the queries it is asked."""

    queries = 0

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of one query."""
        self.queries += 1
        return await super().fetch(sql, *arguments)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[CountingStore]:
    """Intake's store, in which one plugin and one machine are known."""
    opened = await CountingStore.open(database_url, "intake")
    assert isinstance(opened, CountingStore)
    try:
        await migrate(opened, migrations())
        await opened.pool.execute(KNOW_PLUGIN, PLUGIN.name, PLUGIN.model_dump_json())
        await opened.pool.execute(KNOW_MACHINE, MACHINE.machine_id, 0, MACHINE.model_dump_json())
        yield opened
    finally:
        await opened.close()


def tables(store: Store) -> Tables:
    """The rows as one process of intake sees them."""
    return Tables(store, lambda: Unit(service="intake", at=datetime.now(UTC), uuid=uuid4, announce=no_announcements))


async def test_a_catalogue_that_did_not_change_is_one_query(store: CountingStore) -> None:
    """A submission that meets the catalogue of the one before costs one small query, not all rows."""
    mine = tables(store)
    first = await mine.catalogue()
    before = store.queries
    assert await mine.catalogue() == first
    assert store.queries - before == 1


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        (KNOW_PLUGIN, ("zip", PLUGIN.model_copy(update={"name": "zip"}).model_dump_json())),
        (KNOW_PLUGIN, (PLUGIN.name, PLUGIN.model_copy(update={"version": "1.0.1"}).model_dump_json())),
        (KNOW_PLUGIN, (PLUGIN.name, None)),
        (KNOW_PLUGIN, ("never-seen", None)),
        (KNOW_MACHINE, ("linux-2", 0, MACHINE.model_copy(update={"machine_id": "linux-2"}).model_dump_json())),
        (KNOW_MACHINE, (MACHINE.machine_id, 1, MACHINE.model_copy(update={"routes": ("none",)}).model_dump_json())),
        (KNOW_MACHINE, (MACHINE.machine_id, 1, None)),
    ],
)
async def test_what_another_process_heard_is_known_at_once(
    store: CountingStore, statement: str, arguments: tuple[Any, ...]
) -> None:
    """Whatever was registered, changed or withdrawn in the store is in the very next catalogue."""
    mine = tables(store)
    before = await mine.catalogue()
    await store.pool.execute(statement, *arguments)
    after = await mine.catalogue()
    assert after != before
    assert after == await tables(store).catalogue()


async def test_what_is_beyond_the_bound_of_what_is_read_is_counted(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And logged: a refusal for want of it says so."""
    second = MACHINE.model_copy(update={"machine_id": "linux-2"})
    await store.pool.execute(KNOW_MACHINE, "linux-2", 0, second.model_dump_json())
    whole = await tables(store).catalogue()
    assert (whole.machines_unread, whole.plugins_unread) == (0, 0)
    monkeypatch.setattr(module, "CATALOGUE_MAX_ROWS", 1)
    with capture_logs() as logged:
        cut = await tables(store).catalogue()
    assert (len(cut.machines), cut.machines_unread, cut.plugins_unread) == (1, 1, 0)
    assert [(line["event"], line["machines"]) for line in logged] == [("catalogue_was_cut", 1)]
