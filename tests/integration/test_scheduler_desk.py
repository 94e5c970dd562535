"""What the scheduler does when something is lost, late, or not to be had: real PostgreSQL, real handlers and work."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.envelope import Message
from contracts.intake import TaskCancellationRequested
from contracts.machines import MachineRetired, MachineReverting
from contracts.plugins import ObservationEnded, PluginStageCompleted, PluginStageStarted, SampleStarted
from contracts.results import ReportReady
from contracts.scheduler import (
    CancelStage,
    LeaseMachine,
    ReleaseMachine,
    RunStage,
    SealReport,
    TaskCancelled,
    TaskCompleted,
    TaskEnded,
    TaskPlanned,
    TaskTimedOut,
    TaskUnserviceable,
)
from services.chassis.blobs import BlobStore
from services.chassis.migrations import migrate
from services.chassis.projections import Projector
from services.chassis.run import Runtime
from services.chassis.store import Store
from services.scheduler import timers, waiting
from services.scheduler.announcements import announce
from services.scheduler.domain.task import NotPossible, Task
from services.scheduler.main import MIGRATIONS
from services.scheduler.settings import SchedulerSettings
from services.scheduler.tables import TASKS
from services.scheduler.view import present
from tests.contracts.examples import BLOB
from tests.integration.scheduler_desk import RESULT, Desk, only, orders_of

pytestmark = pytest.mark.integration

HOUR_S = 3600.0
SHARED = {"amqp_url": "x", "database_url": "x", "blob_dir": "/", "scratch_dir": "/", "http_port": 0}


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    """A scheduler that knows plugins and one machine."""
    store = await Store.open(database_url, "scheduler")
    await migrate(store, MIGRATIONS)
    made = Desk(store)
    await made.furnish("linux-1")
    yield made
    await store.close()


async def run_until(desk: Desk, task_id: str, state: str) -> list[Message]:
    """The task is led to that state by the usual facts; what was said on the way."""
    said = await desk.said()
    of = {"task_id": task_id, "attempt": 1}
    task = await desk.task(task_id)
    if task.state == "preparing" and state != "preparing":
        await desk.hear(desk.leased(only(LeaseMachine, said)))
        await desk.hear(PluginStageStarted(**of, stage="static"))
        await desk.hear(PluginStageCompleted(**of, stage="static", result_ids=(RESULT,)))
        lease_id = lease_of(await desk.task(task_id))
        await desk.hear(SampleStarted(**of, stage="guest", lease_id=lease_id, pid=7, argv=("/a",)))
    if state in ("collecting", "reporting", "completed"):
        await desk.hear(ObservationEnded(**of, stage="guest", ended_by="sample_exit"))
    if state in ("reporting", "completed"):
        await desk.hear(
            PluginStageCompleted(**of, stage="guest", result_ids=("res_" + "8" * 32,), ended_by="sample_exit")
        )
        await desk.hear(PluginStageCompleted(**of, stage="post", result_ids=()))
    if state == "completed":
        await finish(desk, task_id)
    assert (await desk.task(task_id)).state == state
    return said + await desk.said()


def lease_of(task: Task) -> str:
    """The lease on which the task's guest runs."""
    assert task.guest is not None
    return task.guest.lease.lease_id


async def finish(desk: Desk, task_id: str) -> None:
    """The report is sealed, and every machine that the task used is clean."""
    for machine_id in sorted((await desk.task(task_id)).reverting):
        fact = desk.registered(machine_id, "ready", epoch=5)
        await desk.hear(desk.clean(fact, task_id, epoch=5))
    await desk.hear(ReportReady(task_id=task_id, verdict="benign", score=0, report=BLOB))


async def leftovers(store: Store) -> dict[str, int]:
    """Rows that only a task which is not over may have."""
    return {table: len(await store.fetch(f"SELECT FROM {table}")) for table in ("queue", "heads", "holding")} | {
        "waits": len(await store.fetch("SELECT FROM work WHERE kind = 'wait'"))
    }


@pytest.mark.promise("P12", "P17")
async def test_a_task_all_of_whose_messages_were_lost_comes_to_its_end(desk: Desk) -> None:
    """Each order is lost when it is first given, and each answer comes only to its repetition: the store remembers."""
    task_id = await desk.submit()
    lost = await desk.said()
    said = await desk.pass_time(61)
    assert {message.type_name() for message in said} == {RunStage.type_name(), LeaseMachine.type_name()}
    assert only(LeaseMachine, said) == only(LeaseMachine, lost)
    await desk.hear(desk.leased(only(LeaseMachine, said)))
    await desk.said()
    said = await desk.pass_time(200)
    of = {"task_id": task_id, "attempt": 1}
    for stage in ("static", "guest"):
        assert len(orders_of(stage, said)) >= 1
        await desk.hear(PluginStageCompleted(**of, stage=stage, result_ids=(RESULT,)))
    await desk.said()
    said = await desk.pass_time(61)
    assert len(orders_of("post", said)) == 1
    assert only(ReleaseMachine, said).machine_id == "linux-1"
    await desk.hear(PluginStageCompleted(**of, stage="post", result_ids=()))
    await desk.said()
    said = await desk.pass_time(61)
    assert only(SealReport, said).result_ids == (RESULT,)
    assert {order.stage.name for order in said if isinstance(order, RunStage)} == {"static", "guest", "post"}
    await finish(desk, task_id)
    assert isinstance(only(TaskEnded, await desk.said()), TaskCompleted)
    assert await leftovers(desk.store) == {"queue": 0, "heads": 0, "holding": 0, "waits": 0}


@pytest.mark.promise("P3", "P12")
async def test_an_answer_that_comes_as_a_look_is_due_does_not_put_it_off(desk: Desk) -> None:
    """What else was not answered is asked again at once, and not only at the next of ever longer intervals."""
    task_id = await desk.submit()
    lease = only(LeaseMachine, await desk.said())
    await desk._age(61)
    await desk.hear(desk.leased(lease))
    assert len(orders_of("static", await desk.pass_time(1))) == 1
    assert not orders_of("static", await desk.pass_time(20))
    await desk.hear(PluginStageCompleted(task_id=task_id, attempt=1, stage="static", result_ids=()))
    assert not orders_of("static", await desk.pass_time(200))


@pytest.mark.promise("P3", "P12")
async def test_answers_around_the_instant_of_a_look_do_not_put_it_off(desk: Desk) -> None:
    """One just before does not move it beyond its instant, where the next would put it off for minutes."""
    task_id = await desk.submit()
    lease = only(LeaseMachine, await desk.said())
    await desk._age(59.6)
    await desk.hear(desk.leased(lease))
    await desk._age(0.8)
    guest = {"task_id": task_id, "attempt": 1, "stage": "guest", "lease_id": lease_of(await desk.task(task_id))}
    await desk.hear(SampleStarted(**guest, pid=7, argv=("/a",)))
    assert len(orders_of("static", await desk.pass_time(0))) == 1


async def test_a_task_that_is_answered_repeats_nothing(desk: Desk) -> None:
    """The positive control: no order that is answered is given twice, and an ended task is left alone."""
    task_id = await desk.submit()
    said = await run_until(desk, task_id, "completed")
    assert len([message for message in said if isinstance(message, LeaseMachine)]) == 1
    assert [len(orders_of(stage, said)) for stage in ("static", "guest", "post")] == [1, 1, 1]
    assert await desk.pass_time(HOUR_S) == []


@pytest.mark.promise("B1b", "P11")
async def test_a_machine_leased_for_a_task_that_nobody_knows_is_given_back(desk: Desk) -> None:
    """The store was restored from a backup: nothing is parked, and the machine does not wait for its deadline."""
    unknown = LeaseMachine(
        operation_id="ope_1", task_id="tsk_" + "9" * 32, machine_id="linux-9", host="elsewhere", route="none", hold_s=1
    )
    lease = desk.leased(unknown, epoch=8)
    await desk.hear(lease)
    assert await desk.pass_time(59) == []
    release = only(ReleaseMachine, await desk.pass_time(2))
    assert (release.machine_id, release.host, release.lease_id) == ("linux-9", "elsewhere", lease.lease.lease_id)
    older = desk.leased(unknown.model_copy(update={"machine_id": "linux-1"}), epoch=9, host=None)
    await desk.hear(older)
    assert only(ReleaseMachine, await desk.pass_time(61)).host == "local"


@pytest.mark.promise("G4", "B1a")
async def test_a_task_that_runs_on_a_lease_which_is_not_current_is_tried_again(desk: Desk) -> None:
    """Its machine is seen at a later epoch: how the lease ended is asked for first, then it is given up."""
    task_id = await desk.submit()
    await run_until(desk, task_id, "running")
    await desk.hear(desk.registered("linux-1", "ready", epoch=9))
    said = await desk.pass_time(6)
    assert only(ReleaseMachine, said).epoch == 4
    assert (await desk.task(task_id)).state == "running"
    await desk.pass_time(61)
    task = await desk.task(task_id)
    assert (task.state, [lost.number for lost in task.lost_attempts]) == ("preparing", [1])
    assert "linux-1 has another owner" in task.attempt_reasons[0]


async def test_how_a_lost_lease_ended_decides_if_it_can_still_be_had(desk: Desk) -> None:
    """The machine, asked, says that the lease reached its deadline: the task has timed out, and is not tried again."""
    task_id = await desk.submit()
    said = await run_until(desk, task_id, "running")
    lease = desk.leased(only(LeaseMachine, said))
    await desk.hear(MachineReverting(machine_id="linux-1", epoch=5, task_id=task_id, reason="?"))
    assert only(ReleaseMachine, await desk.pass_time(6)).lease_id == lease.lease.lease_id
    await desk.hear(desk.expired(lease, "deadline"))
    await desk.hear(PluginStageCompleted(task_id=task_id, attempt=1, stage="post", result_ids=()))
    task = await desk.task(task_id)
    assert (task.outcome, task.lost_attempts) == ("timed_out", [])
    await desk.pass_time(120)
    assert (await desk.task(task_id)).outcome == "timed_out"


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
    limits = SchedulerSettings.model_validate({**SHARED, "gateway_secret": "x" * 16, "running_per_owner_max": 1})
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


@pytest.mark.promise("P13", "P15")
async def test_a_submission_that_is_said_again_under_another_id_is_the_same_task(desk: Desk) -> None:
    """One task, planned once, however often intake repeats itself."""
    task_id = await desk.submit()
    first = await desk.said()
    version = (await desk.task(task_id)).version
    assert await desk.submit() == task_id
    assert (await desk.task(task_id)).version == version
    assert [type(message) for message in first].count(TaskPlanned) == 1
    assert await desk.said() == []


@pytest.mark.promise("P21", "A2", "A4")
async def test_what_was_asked_of_the_scheduler_is_what_it_orders(desk: Desk) -> None:
    """Machine, route, timeout, enforcement and priority: each is seen in an order or in who comes first."""
    await desk.hear(desk.registered("linux-1", "active", epoch=4))
    await desk.hear(desk.registered("linux-2", "active", epoch=4, routes=("none", "simulated")))
    await desk.submit("plain")
    asked: dict[str, Any] = {
        "machine": "linux-2",
        "route": "simulated",
        "timeout_s": 77,
        "enforce_timeout": True,
        "priority": 9,
    }
    urgent = await desk.submit("urgent", **asked)
    await desk.said()
    await desk.hear(desk.registered("linux-2", "ready", epoch=5, routes=("none", "simulated")))
    await desk.work()
    order = only(LeaseMachine, await desk.said())
    assert (order.task_id, order.machine_id, order.route) == (urgent, "linux-2", "simulated")
    assert order.hold_s == 300 + 77 + 120 + 240
    await desk.hear(desk.leased(order, epoch=6))
    [run] = orders_of("guest", await desk.said())
    assert (run.request.timeout_s, run.request.enforce_timeout) == (77, True)
    assert run.budgets is not None
    assert run.budgets.observation_s == 77


async def test_a_task_that_nobody_looks_after_is_looked_after_from_the_next_start_on(
    desk: Desk, tmp_path: Path
) -> None:
    """An earlier release put down no such work: its tasks have budgets and repetitions all the same."""
    task_id = await desk.submit()
    await desk.store.fetch("DELETE FROM work")
    await desk.store.fetch("DELETE FROM holding")
    projector = Projector(desk.store, TASKS)
    while (await projector.advance())[0]:
        pass
    settings = SchedulerSettings.model_validate({**SHARED, "gateway_secret": "x" * 16})
    runtime = Runtime(settings, desk.store, BlobStore(tmp_path), desk.clock, announce)
    await timers.resume(runtime)
    assert [row["task_id"] for row in await desk.store.fetch("SELECT task_id FROM holding")] == [task_id]
    await desk.said()
    assert only(LeaseMachine, await desk.pass_time(62)).task_id == task_id


STATES = ("queued", "preparing", "running", "collecting", "reporting")


@pytest.mark.promise("B1a", "G1", "P9")
@pytest.mark.parametrize("is_heard", [True, False], ids=["everyone answers", "nobody answers"])
@pytest.mark.parametrize("state", STATES)
async def test_cancelling_ends_that_task_in_every_state_and_keeps_no_machine(
    desk: Desk, *, state: str, is_heard: bool
) -> None:
    """The machine is never taken, or given back; another task of the same owner goes on; the end is said once."""
    if state == "queued":
        await desk.hear(desk.registered("linux-1", "active", epoch=4))
    task_id = await desk.submit()
    other = await desk.submit("other")
    said = [] if state == "queued" else await run_until(desk, task_id, state)
    await desk.hear(TaskCancellationRequested(task_id=task_id, by="ana", reason="a mistake"))
    await desk.hear(TaskCancellationRequested(task_id=task_id, by="ana", reason="again"))
    after = await desk.said()
    task = await desk.task(task_id)
    assert {message.stage for message in after if isinstance(message, CancelStage)} == set(task.running_stages())
    if is_heard:
        for stage in task.running_stages():
            await desk.hear(PluginStageCompleted(task_id=task_id, attempt=1, stage=stage, result_ids=()))
        if state == "preparing":
            await desk.hear(desk.leased(only(LeaseMachine, said)))
    else:
        after += await desk.pass_time(400)
    after += await desk.said()
    assert (await desk.task(task_id)).guest is None
    gave_back = any(isinstance(message, ReleaseMachine) for message in [*said, *after])
    assert gave_back is (state != "queued" and (state != "preparing" or is_heard))
    await finish(desk, task_id)
    after += await desk.said()
    assert only(TaskEnded, [one for one in after if getattr(one, "task_id", "") == task_id]).__class__ is TaskCancelled
    assert not (await desk.task(other)).is_over
    rows = await desk.store.fetch("SELECT task_id FROM holding UNION ALL SELECT task_id FROM queue")
    assert task_id not in {row["task_id"] for row in rows}


@pytest.mark.promise("B1a", "P9")
async def test_a_machine_that_comes_after_a_cancelled_task_ended_is_given_back_to_its_host(desk: Desk) -> None:
    """Nobody answered in time, the task ended; the lease that arrives then is returned at once."""
    task_id = await desk.submit()
    order = only(LeaseMachine, await desk.said())
    await desk.hear(TaskCancellationRequested(task_id=task_id, by="ana", reason=""))
    await desk.pass_time(400)
    await finish(desk, task_id)
    assert (await desk.task(task_id)).state == "cancelled"
    await desk.said()
    await desk.hear(desk.leased(order, host="elsewhere"))
    assert only(ReleaseMachine, await desk.said()).host == "elsewhere"


@pytest.mark.promise("G1")
async def test_a_task_that_is_cancelled_while_its_report_is_made_has_a_report_that_says_so(desk: Desk) -> None:
    """The report is ordered anew; once it is sealed there is nothing left to cancel."""
    task_id = await desk.submit()
    await run_until(desk, task_id, "reporting")
    await desk.hear(TaskCancellationRequested(task_id=task_id, by="ana", reason=""))
    assert only(SealReport, await desk.said()).outcome == "cancelled"
    await desk.hear(ReportReady(task_id=task_id, verdict="benign", score=0, report=BLOB))
    with pytest.raises(NotPossible, match="only the machine is still being cleaned"):
        (await desk.task(task_id)).cancel("ana", "", desk.clock.now())
    await finish(desk, task_id)
    assert (await desk.task(task_id)).state == "cancelled"


@pytest.mark.promise("G1")
async def test_cancelling_a_task_that_is_over_changes_nothing(desk: Desk) -> None:
    """The end is the end."""
    task_id = await desk.submit()
    await run_until(desk, task_id, "completed")
    version = (await desk.task(task_id)).version
    await desk.hear(TaskCancellationRequested(task_id=task_id, by="ana", reason=""))
    assert (await desk.task(task_id)).version == version
    assert await desk.said() == []
