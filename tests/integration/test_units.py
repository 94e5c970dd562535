"""A unit stands with everything that it has, or leaves nothing: its statements are part of the one that commits it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.chassis.migrations import migrate
from services.chassis.run import no_announcements
from services.chassis.store import Duplicate, Fenced, Store
from services.chassis.unit import Cause, Unit, WorkClaim

pytestmark = [pytest.mark.integration, pytest.mark.promise("P2", "P15", "P18")]
NOTES = """
CREATE TABLE notes (what text NOT NULL);
CREATE FUNCTION put_away(item bigint) RETURNS void LANGUAGE sql AS $$ DELETE FROM work WHERE id = item $$;
"""
NOTE = "INSERT INTO notes VALUES ($1)"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store with a table of its own."""
    opened = await Store.open(database_url, "plugins")
    await migrate(opened, (NOTES,))
    yield opened
    await opened.close()


def unit(message_id: str | None = None) -> Unit:
    """An empty one, caused by that message."""
    return Unit("plugins", datetime.now(UTC), lambda: UUID(int=1), no_announcements, Cause(message_id))


async def notes(store: Store) -> list[str]:
    """What units left."""
    return [row["what"] for row in await store.fetch("SELECT what FROM notes ORDER BY what")]


async def work(store: Store) -> WorkClaim:
    """A piece of work that is claimed for the first time."""
    row = await store.fetchrow(
        "INSERT INTO work (kind, key, payload, attempts, claimed_pid) VALUES ('stage', 'one', '{}', 1, 1) RETURNING id"
    )
    assert row is not None
    return WorkClaim(row["id"], 1)


async def test_a_message_that_comes_twice_leaves_its_rows_once(store: Store) -> None:
    """The second unit is refused, and what stands beside the refusal is undone."""
    first, second = unit("msg_1"), unit("msg_1")
    for one in (first, second):
        one.execute(NOTE, "heard")
    await store.commit(first)
    with pytest.raises(Duplicate):
        await store.commit(second)
    assert await notes(store) == ["heard"]


async def test_rows_of_a_later_claimant_s_predecessor_are_refused(store: Store) -> None:
    """Whether it finishes its work or only holds it."""
    claim = await work(store)
    await store.fetch("UPDATE work SET attempts = 2")
    for name in ("holds", "finishes"):
        late = unit()
        setattr(late, name, claim)
        late.execute(NOTE, name)
        with pytest.raises(Fenced):
            await store.commit(late)
    assert await notes(store) == []


@pytest.mark.parametrize("name", ["holds", "finishes"])
async def test_what_a_unit_calls_comes_after_its_claim_was_checked(store: Store, name: str) -> None:
    """A function that puts the claimed work away, as `look_again` does, does not fence its own unit."""
    claim = await work(store)
    own = unit()
    setattr(own, name, claim)
    own.execute("SELECT put_away($1)", claim.work_id)
    own.execute(NOTE, "done")
    await store.commit(own)
    assert await notes(store) == ["done"]
    assert await store.fetch("SELECT 1 FROM work") == []
