"""What a task says while it waits for a machine, and how it ends when none comes: real PostgreSQL, real handlers."""

from collections.abc import AsyncIterator

import pytest

from contracts.machines import MachineRetired
from contracts.plugins import PluginStageCompleted
from contracts.scheduler import (
    TaskTimedOut,
    TaskUnserviceable,
)
from services.scheduler import waiting
from services.scheduler.view import present
from tests.integration.scheduler_course import finish, leftovers, run_until
from tests.integration.scheduler_desk import RESULT, Desk, furnished, only, settings

pytestmark = pytest.mark.integration


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    """A scheduler that knows plugins and one machine."""
    async with furnished(database_url) as made:
        yield made


HOUR_S = 3600.0


@pytest.mark.promise("G3")
async def test_a_waiting_task_learns_at_once_that_its_last_machine_was_retired(desk: Desk) -> None:
    """By event: nothing polls. A task that another machine can serve waits on."""
    await desk.hear(desk.registered("linux-2", "active", epoch=3))
    await desk.hear(desk.registered("linux-1", "active", epoch=4))
    pinned = await desk.submit("pinned", machine="linux-2")
    free = await desk.submit("free")
    await desk.hear(MachineRetired(machine_id="linux-2", epoch=3, reason="worn out"))
    await desk.work()
    for task_id, is_stranded in ((pinned, True), (free, False)):
        assert (await desk.task(task_id)).is_stranded is is_stranded
    for task_id in (pinned, free):
        await desk.hear(PluginStageCompleted(task_id=task_id, attempt=1, stage="static", result_ids=(RESULT,)))
    await desk.hear(PluginStageCompleted(task_id=pinned, attempt=1, stage="post", result_ids=()))
    await desk.said()
    await finish(desk, pinned)
    end = only(TaskUnserviceable, await desk.said())
    assert end.task_id == pinned
    assert "no machine fits machine linux-2" in end.reason
    assert (await desk.task(free)).state == "queued"


@pytest.mark.promise("G3")
async def test_a_machine_that_no_longer_offers_a_route_strands_who_waited_for_it(desk: Desk) -> None:
    """A machine that is registered anew, as something else, is a change of the pool as well."""
    await desk.hear(desk.registered("linux-1", "active", epoch=3, routes=("none", "simulated")))
    task_id = await desk.submit(route="simulated")
    await desk.hear(desk.registered("linux-1", "active", epoch=4, routes=("none",)))
    await desk.work()
    assert (await desk.task(task_id)).is_stranded


async def test_a_task_is_refused_with_the_reason_when_every_machine_was_retired(desk: Desk) -> None:
    """A pool that is known to be empty is not a pool that nobody has heard of yet."""
    await desk.hear(MachineRetired(machine_id="linux-1", epoch=3, reason="worn out"))
    task_id = await desk.submit()
    task = await desk.task(task_id)
    assert (task.state, "every machine was retired" in task.why) == ("unserviceable", True)


@pytest.mark.promise("G3")
async def test_a_waiting_task_says_what_it_waits_for_and_costs_nothing(desk: Desk) -> None:
    """Why names the machines and what they are busy with, or the owner's own limit; no work is due for days."""
    limits = settings(running_per_owner_max=1)
    await waiting.keep_rules(desk.store, running_per_owner_max=1, budgets=limits.budgets)
    first = await desk.submit("first")
    second = await desk.submit("second")
    third = await desk.submit("third", owner="bob")
    for task_id in (first, second, third):
        await desk.hear(PluginStageCompleted(task_id=task_id, attempt=1, stage="static", result_ids=()))
    await run_until(desk, first, "running")

    async def why(task_id: str) -> str:
        return str((await present(desk.store, await desk.task(task_id), desk.clock.now()))["why"])

    assert await why(second) == (
        "waiting for a machine of profile linux (ana has 1 tasks on machines, which is the limit of one owner)"
    )
    assert await why(third) == "waiting for a machine of profile linux (1 is leased)"
    due = await desk.store.fetchrow(
        "SELECT due_at - now() > interval '23 hours' AS is_far FROM work WHERE kind = 'wait' AND key = $1", third
    )
    assert due is not None
    assert due["is_far"]


@pytest.mark.promise("A4", "G3")
async def test_a_task_whose_queue_budget_ends_is_timed_out_with_that_reason(desk: Desk) -> None:
    """Due work, which survives any crash, ends it; its report is of what needed no machine."""
    await desk.hear(desk.registered("linux-1", "quarantined", epoch=4))
    task_id = await desk.submit()
    await desk.hear(PluginStageCompleted(task_id=task_id, attempt=1, stage="static", result_ids=(RESULT,)))
    await desk.pass_time(24 * HOUR_S + 1)
    await desk.hear(PluginStageCompleted(task_id=task_id, attempt=1, stage="post", result_ids=()))
    await finish(desk, task_id)
    end = only(TaskTimedOut, await desk.said())
    assert end.reason == "no machine was free for 86400 s"
    assert await leftovers(desk.store) == {"queue": 0, "heads": 0, "holding": 0, "waits": 0}
