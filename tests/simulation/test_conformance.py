"""The simulated database answers as PostgreSQL does: the same calls of the same code on both leave the same rows."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from contracts.machines import MachineSummary
from services.chassis.migrations import migrate
from services.chassis.run import no_announcements
from services.chassis.store import Conflict, Duplicate, Fenced, Store
from services.chassis.unit import Cause, OutboxRow, Unit, WorkClaim
from services.chassis.work import claims
from services.machines.domain.machine import Machine
from services.machines.domain.spec import MachineSpec
from services.scheduler import main as scheduler
from services.scheduler import tables, waiting
from tests.contracts.examples import MACHINE
from tests.simulation.connections import Lock, Pool, Wire
from tests.simulation.database import Database
from tests.simulation.services import SimStore, empty_database
from tests.simulation.statements import answers

pytestmark = pytest.mark.integration
NOW = datetime(2026, 1, 2, tzinfo=UTC)
UNLIKE = frozenset(
    {"id", "position", "txid", "at", "recorded_at", "received_at", "written_at", "due_at", "claimed_pid"}
)
"""Columns in which two databases may differ: numbers they gave, instants they saw, connections they had."""
Step = Callable[[Store], Awaitable[Any]]


@pytest.fixture
async def both(database_url: str) -> AsyncIterator[tuple[Store, Store]]:
    """The scheduler's schema in PostgreSQL, and in the simulation."""
    real = await Store.open(database_url, "scheduler")
    await migrate(real, scheduler.MIGRATIONS)
    database = Database("scheduler", empty_database("scheduler"), lambda: datetime.now(UTC))
    lock = Lock(asyncio.get_running_loop().create_future)
    simulated = SimStore(Pool(database, Wire(), answers, lock), "scheduler")  # type: ignore[arg-type]
    simulated.decoded = {}
    yield real, simulated
    await real.close()


async def told(step: Step, store: Store) -> Any:
    """What came of the step: what it returned, or which error it raised."""
    try:
        return await step(store)
    except (Conflict, Duplicate, Fenced) as outcome:
        return type(outcome).__name__


async def dump(store: Store, table: str) -> list[str]:
    """The table's rows, without what may differ, in an order of their own."""
    rows = await store.fetch(f"SELECT * FROM {table}")  # noqa: S608 - a name of ours
    shown = [{name: plain(value) for name, value in row.items() if name not in UNLIKE} for row in rows]
    return sorted(repr(sorted(row.items())) for row in shown)


def plain(value: Any) -> Any:
    """The value, whatever the spelling of its JSON."""
    is_json = isinstance(value, str) and value.startswith(("{", "["))
    return json.dumps(json.loads(value), sort_keys=True) if is_json else value


async def same(both: tuple[Store, Store], steps: list[tuple[str, Step]], names: tuple[str, ...]) -> list[Any]:
    """Every step comes to the same on both, and leaves the same rows. What came of them."""
    outcomes = []
    for name, step in steps:
        real, simulated = [await told(step, store) for store in both]
        assert simulated == real, name
        outcomes.append(real)
        for table in names:
            real_rows, simulated_rows = [await dump(store, table) for store in both]
            assert simulated_rows == real_rows, (name, table)
    return outcomes


def a_unit(rng: Random, number: int) -> Step:
    """A unit that may be a duplicate, conflict, be fenced, or stand."""
    inbox = rng.choice((None, f"msg_{rng.randrange(12)}"))
    versions, start = rng.randrange(2), rng.randrange(1, 8)
    profile = rng.choice(("linux", "other"))
    outbox = [f"out_{rng.randrange(10)}" for _ in range(rng.randrange(3))]
    work = [(rng.choice("ab"), f"k{rng.randrange(4)}", rng.randrange(-5, 5)) for _ in range(rng.randrange(3))]
    claim = rng.choice((None, None, ("finishes", rng.randrange(4), rng.randrange(3)), ("holds", rng.randrange(4), 1)))

    async def step(store: Store) -> str:
        unit = Unit("scheduler", NOW, lambda: UUID(int=number), no_announcements, Cause(inbox))
        spec = MachineSpec(machine_id="m1", host="local", profile=profile, platform="linux", image="linux")
        if versions:
            (event,) = Machine.register(spec, NOW).collect_events()
            event.__dict__["originator_version"] = start
            unit.events.append(event)
        for message_id in outbox:
            unit.outbox.append(OutboxRow(message_id, "malbox.facts", "a.b.c", b"{}"))
        for kind, key, delay_s in work:
            unit.enqueue(kind, key, {"n": number}, due_at=NOW + timedelta(hours=delay_s))
        if claim is not None:
            named, index, attempt = claim
            rows = await store.fetch("SELECT id FROM work ORDER BY kind, key")
            if rows:
                setattr(unit, named, WorkClaim(rows[index % len(rows)]["id"], attempt))
        await store.commit(unit)
        return "committed"

    return step


async def test_units_come_to_the_same(both: tuple[Store, Store]) -> None:
    """Inbox, versions, outbox, work and fences decide alike; each outcome is seen."""
    rng = Random(7)  # noqa: S311 - it has to be the same again
    steps = [(f"unit {number}", a_unit(rng, number)) for number in range(150)]
    outcomes = await same(both, steps, ("events", "inbox", "outbox", "work"))
    assert set(outcomes) == {"committed", "Conflict", "Duplicate", "Fenced"}


def a_claim(rng: Random) -> Step:
    """Due work is claimed, seen, renewed, taken over, or given back. Each piece is due at an instant of its own."""
    what = rng.choice(("claim", "claim", "renew", "others", "take", "release", "enqueue"))
    places = {"a": rng.randrange(1, 3), "b": rng.randrange(1, 3)}
    key, attempt = f"k{rng.randrange(6)}", rng.randrange(1, 4)

    async def step(store: Store) -> Any:
        rows = await store.fetch("SELECT id, key, attempts, beats FROM work ORDER BY kind, key")
        keys = {row["id"]: row["key"] for row in rows}
        mine = [(row["id"], attempt) for row in rows if row["key"] == key]
        if what == "enqueue":
            unit = Unit("scheduler", NOW, lambda: UUID(int=1), no_announcements)
            unit.enqueue(rng_kind(key), key, {}, due_at=NOW - timedelta(hours=int(key[1:])))
            await store.commit(unit)
            return None
        async with store.pool.acquire() as connection:
            if what == "claim":
                items, due_s = await claims.claim_due(connection, places, [])
                return sorted((item.key, item.attempt) for item in items), due_s is None
            if what == "renew":
                kept, lost = await claims.renew(connection, mine)
                return sorted(keys[one] for one in kept), sorted(keys[one] for one in lost)
            seen = sorted(await claims.others(connection, ["a", "b"], []), key=lambda claim: keys[claim.work_id])
            if what == "take":
                return [item.key for item in await claims.take(connection, seen[:1])]
        if what == "release":
            for work_id, held in mine:
                await store.fetch("UPDATE work SET claimed_pid = NULL WHERE id = $1 AND attempts = $2", work_id, held)
        return sorted((keys[claim.work_id], claim.attempt) for claim in seen)

    return step


def rng_kind(key: str) -> str:
    """Which kind of work has the key."""
    return "a" if int(key[1:]) % 2 else "b"


async def test_claims_of_work_come_to_the_same(both: tuple[Store, Store]) -> None:
    """Both claim in the order of being due, and renew, take over and give back the same claims."""
    rng = Random(11)  # noqa: S311 - it has to be the same again
    await same(both, [(f"claim {number}", a_claim(rng)) for number in range(60)], ("work",))


def a_turn(rng: Random) -> Step:
    """A task enters the queue, is matched, is granted, steps aside, or the next is picked."""
    what = rng.choice(("enter", "enter", "enter", "take", "grant", "aside", "pick", "ready", "again"))
    task, who = f"tsk_{rng.randrange(12)}", f"owner{rng.randrange(3)}"
    rank, cost = rng.randrange(2), rng.randrange(30, 60)
    machine, only = f"m{rng.randrange(3)}", rng.choice(("", "", "m1"))

    async def step(store: Store) -> Any:
        if what == "pick":
            return await waiting.pick(store)
        unit = Unit("scheduler", NOW, lambda: UUID(int=1), no_announcements, Cause(sequence=1))
        if what == "enter":
            at = NOW + timedelta(seconds=int(task[4:]))
            unit.execute(
                "SELECT enter_queue($1, $2, $3, $4, $5, $6, $7, $8)", task, who, rank, "linux", only, "none", at, cost
            )
        elif what in ("take", "grant"):
            epoch = 3 if what == "grant" else None
            unit.execute("SELECT take_machine($1, $2, $3, $4, $5, $6)", task, who, rank, cost, machine, epoch)
        elif what == "aside":
            unit.execute("SELECT stand_aside($1, $2)", task, who)
        elif what == "again":
            called = "SELECT look_again($1, $2)" if rank % 2 else "SELECT put_off_look($1, $2)"
            unit.execute(called, task, timedelta(seconds=cost - 5))
        else:
            summary = MachineSummary.model_validate({**MACHINE.model_dump(), "machine_id": machine})
            tables.keep_machine(unit, summary, epoch=rank, condition="ready" if cost % 2 else "being cleaned")
        await store.commit(unit)
        return None

    return step


async def test_turns_come_to_the_same(both: tuple[Store, Store]) -> None:
    """The queue's functions, written by hand, do what those in queue.sql do."""
    rng = Random(13)  # noqa: S311 - it has to be the same again
    for store in both:
        await waiting.keep_rules(store, running_per_owner_max=2, budgets=await waiting.budgets(store))
    steps = [(f"turn {number}", a_turn(rng)) for number in range(200)]
    outcomes = await same(both, steps, ("queue", "heads", "shares", "clocks", "holding", "pool", "work"))
    assert any(outcome is not None for outcome in outcomes)
