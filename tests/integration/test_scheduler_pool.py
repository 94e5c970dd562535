"""What the scheduler believes of the fleet does not depend on the order in which messages arrive."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import permutations
from uuid import uuid4

import pytest

from services.chassis.migrations import migrate
from services.chassis.run import no_announcements
from services.chassis.store import Store
from services.chassis.unit import Cause, Unit
from services.scheduler import tables
from services.scheduler.main import MIGRATIONS
from tests.contracts.examples import MACHINE

pytestmark = pytest.mark.integration


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store of the scheduler, its schema made."""
    opened = await Store.open(database_url, "scheduler")
    await migrate(opened, MIGRATIONS)
    yield opened
    await opened.close()


async def heard(store: Store, sequence: int, change: Callable[[Unit], None]) -> None:
    """The change that a message with this sequence calls for is committed."""
    cause = Cause(f"msg_{uuid4().hex}", sequence=sequence)
    unit = Unit("scheduler", datetime.now(UTC), uuid4, no_announcements, cause)
    change(unit)
    await store.commit(unit)


def reverting(unit: Unit) -> None:
    """The machine is being cleaned."""
    tables.mark_not_ready(unit, "linux-1", epoch=5)


def refused(unit: Unit) -> None:
    """A lease was refused while it was being cleaned."""
    tables.mark_not_ready(unit, "linux-1", epoch=5)


def reverted(unit: Unit) -> None:
    """The machine is clean."""
    tables.keep_machine(unit, MACHINE, epoch=5, condition="ready")


@pytest.mark.promise("P15")
async def test_late_words_of_the_same_epoch_do_not_take_a_ready_machine_out_of_the_pool(store: Store) -> None:
    """Reverting (10), refused (11) and reverted (12), in every order: the machine is ready."""
    told = ((10, reverting), (11, refused), (12, reverted))
    for order in permutations(told):
        await store.fetch("DELETE FROM pool")
        await heard(store, 1, lambda unit: tables.keep_machine(unit, MACHINE, epoch=0, condition="registered"))
        for sequence, change in order:
            await heard(store, sequence, change)
        [row] = await store.fetch("SELECT is_ready, sequence FROM pool")
        assert (row["is_ready"], row["sequence"]) == (True, 12), order


@pytest.mark.promise("P15")
async def test_a_later_word_does_take_it_out(store: Store) -> None:
    """The positive control."""
    await heard(store, 12, reverted)
    await heard(store, 13, reverting)
    [row] = await store.fetch("SELECT is_ready FROM pool")
    assert row["is_ready"] is False
