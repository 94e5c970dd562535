"""Whose turn it is: priority, then fair share, then age; and nobody in anybody's way."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.machines import MachineSummary
from services.scheduler.policy.turns import ANY, Turns, Waiting

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def machine(
    name: str = "linux-1",
    *,
    routes: tuple[str, ...] = ("none",),
    profile: str = "linux",
    accepts_untrusted: bool = False,
) -> MachineSummary:
    """A machine that is ready."""
    return MachineSummary.model_validate(
        {
            "machine_id": name,
            "host": "local",
            "profile": profile,
            "platform": "linux",
            "arch": "x86_64",
            "routes": routes,
            "accepts_untrusted": accepts_untrusted,
        }
    )


def waits(
    task_id: str,
    owner: str = "ana",
    *,
    priority: int = 5,
    age_s: int = 0,
    machine_id: str = ANY,
    terms: str = "none",
    cost_s: int = 60,
) -> Waiting:
    """A task that waits since so long before noon."""
    return Waiting(task_id, owner, priority, "linux", machine_id, terms, NOON - timedelta(seconds=age_s), cost_s)


def order(turns: Turns, ready: MachineSummary) -> list[str]:
    """The tasks in the order in which one machine would serve them, each ending before the next begins."""
    served = []
    while (pick := turns.next([ready])) is not None:
        turns.take(pick[0], is_granted=True)
        turns.stand_aside(pick[0])
        served.append(pick[0])
    return served


def queue(*tasks: Waiting, most: int = 100) -> Turns:
    """A queue in which these tasks came to wait one after another."""
    turns = Turns(most)
    for task in tasks:
        turns.enter(task)
    return turns


def test_priority_comes_before_everything() -> None:
    """However old, and however little its owner had."""
    turns = queue(waits("old", age_s=900), waits("urgent", priority=9), waits("rare", "bob", age_s=500))
    assert order(turns, machine())[0] == "urgent"


@pytest.mark.promise("P27")
def test_an_untrusted_sample_waits_for_a_machine_that_accepts_it_and_lets_others_pass() -> None:
    """The emulated machine goes to the next in line; the one behind virtualisation serves both kinds."""
    turns = queue(waits("untrusted", age_s=9, terms="none, untrusted"), waits("plain", age_s=1))
    assert turns.next([machine()]) == ("plain", "linux-1")
    assert turns.next([machine(accepts_untrusted=True)]) == ("untrusted", "linux-1")


def test_of_one_owner_the_oldest_comes_first() -> None:
    """Age decides where nothing else does."""
    assert order(queue(waits("b", age_s=1), waits("a", age_s=2), waits("c")), machine()) == ["a", "b", "c"]


def test_an_owner_with_a_long_backlog_does_not_starve_one_with_a_short_one() -> None:
    """A hundred older tasks of Ana; Bob's two come second and fourth."""
    turns = queue(*(waits(f"ana-{n:03}", age_s=1000 - n) for n in range(100)))
    turns.enter(waits("bob-1", "bob", age_s=2))
    turns.enter(waits("bob-2", "bob", age_s=1))
    served = order(turns, machine())
    assert [served.index("bob-1"), served.index("bob-2")] == [1, 3]


def test_who_was_away_has_no_credit_for_it() -> None:
    """Bob comes back after Ana was served for an hour: they alternate, Bob does not catch up."""
    turns = queue(waits("bob-0", "bob", age_s=9000))
    turns.take("bob-0", is_granted=True)
    turns.stand_aside("bob-0")
    for n in range(60):
        turns.enter(waits(f"before-{n}", age_s=5000 - n))
    order(turns, machine())
    for n in range(4):
        turns.enter(waits(f"ana-{n}", age_s=100 - n))
        turns.enter(waits(f"bob-{n + 1}", "bob", age_s=50 - n))
    owners = [task.partition("-")[0] for task in order(turns, machine())]
    assert owners[:6].count("bob") == 3


def test_an_owner_at_the_limit_waits_and_others_go_on() -> None:
    """The limit counts tasks that hold a machine or were promised one."""
    turns = queue(waits("a", priority=9), waits("b", priority=9), waits("c", "bob", priority=1), most=1)
    turns.take("a")
    assert turns.next([machine()]) == ("c", "linux-1")
    turns.stand_aside("a")
    assert turns.next([machine()]) == ("b", "linux-1")


@pytest.mark.promise("G3")
def test_a_task_that_cannot_run_now_blocks_none_that_can() -> None:
    """Its machine is busy, or no machine has its route: the next task runs."""
    turns = queue(
        waits("pinned", priority=9, age_s=9, machine_id="linux-2"),
        waits("routed", priority=9, age_s=9, terms="internet"),
        waits("plain", priority=0),
    )
    assert turns.next([machine()]) == ("plain", "linux-1")


def test_a_machine_that_others_need_is_kept_for_them() -> None:
    """Given the choice, a task takes the machine that nobody asked for by name and that offers least."""
    turns = queue(waits("plain", age_s=1), waits("pinned", machine_id="linux-1"))
    ready = [machine("linux-1"), machine("linux-2", routes=("none", "simulated")), machine("linux-3")]
    assert turns.next(ready) == ("plain", "linux-3")


def test_a_promise_that_was_not_kept_costs_nothing() -> None:
    """A refused match gives the turn back; a lease that was granted does not."""
    turns = queue(waits("a"))
    before = dict(turns.shares)
    turns.take("a")
    turns.enter(waits("a"))
    assert turns.shares == before
    turns.take("a", is_granted=True)
    turns.enter(waits("a"))
    assert turns.shares != before


@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=30),
    st.lists(st.integers(1, 600), min_size=1, max_size=30),
)
def test_while_two_owners_both_wait_neither_gets_ahead_by_more_than_one_task_each(
    ana: list[int], bob: list[int]
) -> None:
    """The bound of start-time fair queuing: machine time differs by at most the longest task of either."""
    turns = queue(
        *(waits(f"a{n:02}", "ana", cost_s=cost, age_s=900 - n) for n, cost in enumerate(ana)),
        *(waits(f"b{n:02}", "bob", cost_s=cost, age_s=100 - n) for n, cost in enumerate(bob)),
    )
    given_s = {"ana": 0, "bob": 0}
    while {task.owner for task in turns.waiting.values()} == {"ana", "bob"}:
        pick = turns.next([machine()])
        assert pick is not None
        task = turns.waiting[pick[0]]
        turns.take(task.task_id, is_granted=True)
        turns.stand_aside(task.task_id)
        given_s[task.owner] += task.cost_s
        assert abs(given_s["ana"] - given_s["bob"]) <= max(ana) + max(bob)
