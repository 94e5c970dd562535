"""Projections read events in commit order, skip none that commit late, and can be rebuilt by replay."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from services.chassis.housekeeping import INBOX, expire
from services.chassis.migrations import migrate
from services.chassis.projections import Projector
from services.chassis.rebuild import Rebuilt, rebuild
from services.chassis.store import Conflict, Duplicate, Store
from services.chassis.unit import Cause, Unit
from services.machines.announcements import announce
from services.machines.domain.machine import Machine
from services.machines.domain.spec import MachineSpec
from services.machines.projections import FLEET, MIGRATIONS

pytestmark = pytest.mark.integration
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store of the machines service, its schema made."""
    opened = await Store.open(database_url, "machines")
    await migrate(opened, MIGRATIONS)
    yield opened
    await opened.close()


def unit(cause: Cause = Cause()) -> Unit:  # noqa: B008 - frozen
    """An empty unit."""
    return Unit(service="machines", at=NOW, uuid=uuid4, announce=announce, cause=cause)


def registered(name: str) -> Machine:
    """A new machine."""
    spec = MachineSpec(machine_id=name, host="local", profile="linux", platform="linux", image="linux")
    return Machine.register(spec, NOW)


async def save(store: Store, *machines: Machine) -> None:
    """Their new events are committed."""
    work = unit()
    for machine in machines:
        work.save(machine)
    await store.commit(work)


async def fleet(store: Store) -> list[dict[str, object]]:
    """Every projected row."""
    rows = await store.fetch("SELECT * FROM fleet ORDER BY machine_id")
    history = await store.fetch("SELECT * FROM machine_history ORDER BY stream, version")
    return [dict(row) for row in (*rows, *history)]


async def caught_up(store: Store) -> int:
    """Every event has been applied; how many of them by this one."""
    projector, total = Projector(store, FLEET), 0
    while True:
        count, is_behind = await projector.advance()
        total += count
        if not count and not is_behind:
            return total


async def applied(projector: Projector) -> tuple[int, bool]:
    """What the projector's next batch is, once no older transaction runs, be it another database's.

    Raises TimeoutError.
    """
    async with asyncio.timeout(60):
        while (batch := await projector.advance()) == (0, True):  # noqa: ASYNC110 - others' transactions
            await asyncio.sleep(0.02)
    return batch


@pytest.mark.promise("P16")
async def test_a_rebuilt_projection_equals_the_one_that_followed(store: Store) -> None:
    """Dropped and replayed, the rows are the same."""
    for number in range(5):
        machine = registered(f"m{number}")
        await save(store, machine)
        machine.start_provisioning("new", NOW, "image")
        await save(store, machine)
    await caught_up(store)
    followed = await fleet(store)
    assert len(followed) == 15
    assert await rebuild(store, FLEET) == Rebuilt(10, rows_changed=0)
    assert await fleet(store) == followed


@pytest.mark.promise("P16")
async def test_an_event_whose_transaction_commits_late_is_not_skipped(store: Store) -> None:
    """A reader that goes by serial numbers alone would pass over it for ever."""
    late = await store.pool.acquire()
    transaction = late.transaction()
    await transaction.start()
    await late.execute("SELECT pg_current_xact_id()")
    stored = registered("late").collect_events()[0]
    row = store._mapper.to_stored_event(stored)
    await late.execute(
        "INSERT INTO events (stream, version, topic, state) VALUES ($1, 1, $2, $3)",
        row.originator_id, row.topic, row.state,
    )  # fmt: skip
    await save(store, registered("early"))
    projector = Projector(store, FLEET)
    assert await projector.advance() == (0, True)
    await transaction.commit()
    await store.pool.release(late)
    await caught_up(store)
    assert sorted(str(row["machine_id"]) for row in await fleet(store) if "machine_id" in row) == ["early", "late"]


@pytest.mark.promise("P16")
async def test_a_projector_that_idles_notices_that_its_database_is_an_older_one(store: Store) -> None:
    """What is committed after a restore stands before the place that it knew, and is projected all the same."""
    await save(store, registered("kept"))
    await caught_up(store)
    (kept,) = await store.fetch("SELECT txid, position FROM checkpoints")
    await store.fetch("UPDATE checkpoints SET txid = '9000000000000000', position = 9000000000000000")
    projector = Projector(store, FLEET)
    assert await projector.advance() == (0, False)
    await store.fetch("UPDATE checkpoints SET txid = $1, position = $2", kept["txid"], kept["position"])
    await save(store, registered("after"))
    assert await projector.advance() == (0, True)
    assert await applied(projector) == (1, False)
    assert sorted(str(row["machine_id"]) for row in await fleet(store) if "machine_id" in row) == ["after", "kept"]


@pytest.mark.promise("P13", "P15")
async def test_two_writers_of_one_aggregate_conflict_and_a_lost_reply_does_not(store: Store) -> None:
    """The version decides; the same events again are a reply that was lost."""
    machine = registered("one")
    await save(store, machine)
    first = await store.load(Machine, Machine.stream("one"))
    second = await store.load(Machine, Machine.stream("one"))
    assert first is not None
    assert second is not None
    first.start_provisioning("first", NOW, "image")
    second.start_provisioning("second", NOW, "image")
    mine, theirs = unit(), unit()
    mine.save(first)
    theirs.save(second)
    await store.commit(mine)
    with pytest.raises(Conflict):
        await store.commit(theirs)
    with pytest.raises(Duplicate):
        await store.commit(mine)


@pytest.mark.promise("P15")
async def test_a_message_that_was_handled_changes_nothing_again(store: Store) -> None:
    """Inbox, events, outbox and rows are one transaction."""
    for expected in (None, Duplicate):
        again = unit(Cause("msg_1"))
        again.save(registered(f"m{uuid4().hex[:8]}"))
        again.execute("INSERT INTO authorities VALUES ($1, 'c', 'k', '')", uuid4().hex)
        if expected is None:
            await store.commit(again)
        else:
            with pytest.raises(expected):
                await store.commit(again)
    assert len(await store.fetch("SELECT 1 FROM events")) == 1
    assert len(await store.fetch("SELECT 1 FROM authorities")) == 1


@pytest.mark.promise("P16")
async def test_projectors_that_race_apply_each_event_once(store: Store) -> None:
    """The checkpoint row is the lock."""
    await save(store, *(registered(f"m{number}") for number in range(20)))
    assert sum(await asyncio.gather(*(caught_up(store) for _ in range(4)))) == 20


async def test_expired_rows_are_deleted_and_younger_ones_kept(store: Store) -> None:
    """The inbox forgets after its days, not before."""
    await store.fetch(
        "INSERT INTO inbox VALUES ('old', now() - interval '15 days'), ('new', now() - interval '13 days')"
    )
    assert await expire(store, INBOX) == 1
    assert [row["message_id"] for row in await store.fetch("SELECT message_id FROM inbox")] == ["new"]
