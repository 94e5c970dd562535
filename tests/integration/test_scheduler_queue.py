"""The queue in a real PostgreSQL: what the pure policy says, at a cost that does not depend on its length."""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.machines import MachineSummary
from contracts.planning import Budgets
from services.chassis.migrations import migrate
from services.chassis.store import Store
from services.scheduler import waiting
from services.scheduler.main import MIGRATIONS
from services.scheduler.policy.turns import ANY, Turns, Waiting

pytestmark = pytest.mark.integration

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
OWNERS = ("ana", "bob", "cy")
ROUTES = ("none", "simulated", "internet")
LIMIT = 3
FILL = """
WITH filled AS (
    INSERT INTO queue (task_id, owner, profile, machine_id, route, priority, queued_at, cost_s)
    SELECT 'tsk_' || n, 'owner-' || n % 7, 'linux', CASE WHEN n % 5 = 0 THEN 'm-' || n % 3 ELSE '' END,
    (ARRAY['none', 'internet'])[1 + (n % 11) / 10], n % 10, timestamptz '2026-01-02' + n * interval '1 ms', 60
    FROM generate_series($1::int, $2::int) AS n RETURNING owner, priority, profile, machine_id, route),
opened AS (INSERT INTO shares SELECT DISTINCT owner, priority, 0 FROM filled ON CONFLICT DO NOTHING)
SELECT DISTINCT owner, priority, profile, machine_id, route FROM filled
"""


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store of the scheduler, its schema made."""
    opened = await Store.open(database_url, "scheduler")
    await migrate(opened, MIGRATIONS)
    yield opened
    await opened.close()


def fleet() -> list[MachineSummary]:
    """Machines of two profiles, with growing choices of routes."""
    return [
        MachineSummary.model_validate(
            {
                "machine_id": f"m-{n}",
                "host": "local",
                "profile": ("linux", "windows")[n % 2],
                "platform": "linux",
                "arch": "x86_64",
                "routes": ROUTES[: 1 + n % 3],
                "accepts_untrusted": n % 2 == 0,
            }
        )
        for n in range(6)
    ]


class Both:
    """Does everything to the pure policy and to the store."""

    def __init__(self, store: Store, dice: random.Random) -> None:
        self.store = store
        self.dice = dice
        self.turns = Turns(LIMIT)
        self.fleet = fleet()
        self.ready: set[str] = set()
        self.known: dict[str, Waiting] = {}

    async def begin(self) -> None:
        """The fleet is known to the store."""
        await waiting.keep_rules(self.store, running_per_owner_max=LIMIT, budgets=Budgets())
        for machine in self.fleet:
            await self.store.fetch(
                "INSERT INTO pool (machine_id, host, profile, platform, routes, summary, is_ready, epoch) "
                "VALUES ($1, 'local', $2, 'linux', $3, '{}', false, 1)",
                machine.machine_id,
                machine.profile,
                list(machine.offers),
            )

    async def arrive(self) -> None:
        """One more task."""
        machine = self.dice.choice(self.fleet)
        task = Waiting(
            task_id=f"tsk_{len(self.known):04}",
            owner=self.dice.choice(OWNERS),
            priority=self.dice.choice((4, 5)),
            profile=machine.profile,
            machine_id=self.dice.choice((ANY, ANY, machine.machine_id)),
            terms=self.dice.choice(machine.offers),
            queued_at=NOON + timedelta(seconds=self.dice.randint(0, 20)),
            cost_s=self.dice.randint(1, 300),
        )
        self.known[task.task_id] = task
        await self.enter(task)

    async def enter(self, task: Waiting) -> None:
        """The task waits, for the first time or again."""
        self.turns.enter(task)
        await self.store.fetch(
            "SELECT enter_queue($1, $2, $3, $4, $5, $6, $7, $8)",
            *(task.task_id, task.owner, task.priority, task.profile, task.machine_id, task.terms),
            *(task.queued_at, task.cost_s),
        )

    async def pick(self) -> None:
        """The next match, if there is one: both say the same."""
        expected = self.turns.next([machine for machine in self.fleet if machine.machine_id in self.ready])
        found = await waiting.pick(self.store)
        assert (found and found[:2]) == expected
        if expected is not None:
            self.ready.discard(expected[1])
            await self.store.fetch("UPDATE pool SET is_ready = false WHERE machine_id = $1", expected[1])
            await self.take(expected[0], expected[1], None)

    async def take(self, task_id: str, machine_id: str, epoch: int | None) -> None:
        """The task was promised the machine, or has it."""
        task = self.known[task_id]
        self.turns.take(task_id, is_granted=epoch is not None)
        await self.store.fetch(
            "SELECT take_machine($1, $2, $3, $4, $5, $6)",
            *(task_id, task.owner, task.priority, task.cost_s, machine_id, epoch),
        )

    async def leave(self, task_id: str) -> None:
        """The task is over, or cancelled."""
        self.turns.stand_aside(task_id)
        await self.store.fetch("SELECT stand_aside($1, $2)", task_id, self.known[task_id].owner)

    async def turn_machine(self) -> None:
        """Some machine becomes ready, or is not to be had."""
        name = self.dice.choice(self.fleet).machine_id
        self.ready ^= {name}
        await self.store.fetch("UPDATE pool SET is_ready = $2 WHERE machine_id = $1", name, name in self.ready)

    async def something(self) -> None:
        """One random thing happens."""
        held, waiting_now = list(self.turns.holding), list(self.turns.waiting)
        match self.dice.randint(0, 9):
            case 0 | 1 | 2:
                await self.arrive()
            case 3 | 4 | 5:
                await self.turn_machine()
            case 6 if held:
                await self.leave(self.dice.choice(held))
            case 7 if waiting_now:
                await self.leave(self.dice.choice(waiting_now))
            case 8 if held:
                await self.take(self.dice.choice(held), "m-0", 7)
            case 9 if held:
                await self.enter(self.known[self.dice.choice(held)])
        await self.pick()


@pytest.mark.promise("G3")
@pytest.mark.parametrize("seed", range(8))
async def test_the_store_picks_what_the_policy_says(store: Store, seed: int) -> None:
    """Random tasks, machines, ends, cancellations and requeues: the same match at every step, hundreds of them."""
    both = Both(store, random.Random(seed))  # noqa: S311 - a replay, not a secret
    await both.begin()
    for _ in range(250):
        await both.something()
    assert len(both.known) > 40
    assert {row["task_id"] for row in await store.fetch("SELECT task_id FROM queue")} == set(both.turns.waiting)
    assert {row["task_id"] for row in await store.fetch("SELECT task_id FROM holding")} == set(both.turns.holding)


async def fill(store: Store, first: int, last: int) -> None:
    """So many tasks of seven owners wait, some for one machine or one route only."""
    for row in await store.fetch(FILL, first, last):
        await store.fetch("SELECT refresh_lane($1, $2, $3, $4, $5)", *row.values())
    await store.fetch("ANALYZE queue, heads, pool")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def rows_touched(store: Store) -> Counter[str]:
    """How many rows one pick reads from each table: what it returned, and what it threw away."""
    row = await store.fetchrow(f"EXPLAIN (ANALYZE, FORMAT JSON) {waiting.PICK}")
    assert row is not None
    touched: Counter[str] = Counter()
    for node in nodes(json.loads(row[0])[0]["Plan"]):
        if "Relation Name" in node:
            per_loop = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            touched[node["Relation Name"]] += per_loop * node["Actual Loops"]
    return touched


@pytest.mark.promise("G3")
@pytest.mark.parametrize("ready", [0, 1, 6], ids=["every machine busy", "one ready", "all ready"])
async def test_a_pick_reads_no_more_rows_of_a_long_queue_than_of_a_short_one(store: Store, ready: int) -> None:
    """One task for each lane, then forty thousand: the heads of lanes are read, the queue itself is not."""
    await store.fetch(
        "INSERT INTO pool (machine_id, host, profile, platform, routes, summary, is_ready, epoch) "
        "SELECT 'm-' || n, 'local', 'linux', 'linux', ARRAY['none', 'internet'], '{}', n < $1, 1 "
        "FROM generate_series(0, 5) AS n",
        ready,
    )
    await fill(store, 1, 2_000)
    short = await rows_touched(store)
    await fill(store, 2_001, 40_000)
    long = await rows_touched(store)
    assert long == short
    assert long["queue"] == 0
    assert (long["heads"] > 0) is (ready > 0)
    assert long["heads"] <= 40


async def test_a_limit_that_was_lowered_or_raised_holds_from_the_next_start_on(store: Store) -> None:
    """What the settings say is said to the store once, and every owner's lanes follow."""
    both = Both(store, random.Random(1))  # noqa: S311 - a replay, not a secret
    await both.begin()
    for task_id in ("one", "two"):
        both.known[task_id] = Waiting(task_id, "ana", 5, "linux", ANY, "none", NOON, 60)
        await both.enter(both.known[task_id])
    await both.take("one", "m-2", 1)
    await store.fetch("UPDATE pool SET is_ready = true WHERE machine_id = 'm-0'")
    await waiting.keep_rules(store, running_per_owner_max=1, budgets=Budgets())
    assert await waiting.pick(store) is None
    await waiting.keep_rules(store, running_per_owner_max=2, budgets=Budgets())
    found = await waiting.pick(store)
    assert found is not None
    assert found[:2] == ("two", "m-0")
