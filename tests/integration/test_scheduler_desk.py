"""What the scheduler does when something is lost, late, or not to be had: real PostgreSQL, real handlers and work."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.machines import MachineReverting
from contracts.plugins import PluginStageCompleted, SampleStarted
from contracts.scheduler import (
    LeaseMachine,
    ReleaseMachine,
    RunStage,
    SealReport,
    TaskCompleted,
    TaskEnded,
    TaskPlanned,
)
from services.chassis.blobs import BlobStore
from services.chassis.projections import Projector
from services.chassis.run import Runtime
from services.scheduler import timers
from services.scheduler.announcements import announce
from services.scheduler.tables import TASKS
from tests.integration.scheduler_course import finish, lease_of, leftovers, run_until
from tests.integration.scheduler_desk import RESULT, Desk, furnished, only, orders_of, settings

pytestmark = pytest.mark.integration

HOUR_S = 3600.0


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    """A scheduler that knows plugins and one machine."""
    async with furnished(database_url) as made:
        yield made


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
async def test_answers_around_the_instant_of_a_look_do_not_put_it_off(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One just before does not move it beyond its instant, where the next would put it off for minutes.

    The host's clock stands still but for what it is turned: the answers come when they are to, however slow all is.
    """
    began_at = desk.clock.now()
    monkeypatch.setattr(desk.clock, "now", lambda: began_at + desk.clock._ahead)
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
    assert await desk.pass_time(50) == []
    release = only(ReleaseMachine, await desk.pass_time(11))
    assert (release.machine_id, release.host, release.lease_id) == ("linux-9", "elsewhere", lease.lease.lease_id)
    older = desk.leased(unknown.model_copy(update={"machine_id": "linux-1"}), epoch=9, host=None)
    await desk.hear(older)
    assert only(ReleaseMachine, await desk.pass_time(61)).host == "local"


@pytest.mark.promise("G4", "B1a")
async def test_a_task_that_runs_on_a_lease_which_is_not_current_is_tried_again(desk: Desk) -> None:
    """Its machine is seen at a later epoch: how the lease ended is asked for first, then it is given up.

    The report of the attempt that follows is to tell of it.
    """
    task_id = await desk.submit()
    await run_until(desk, task_id, "running")
    await desk.hear(desk.registered("linux-1", "ready", epoch=9))
    said = await desk.pass_time(6)
    assert only(ReleaseMachine, said).epoch == 4
    assert (await desk.task(task_id)).state == "running"
    said = await desk.pass_time(61)
    task = await desk.task(task_id)
    assert (task.state, [lost.number for lost in task.lost_attempts]) == ("preparing", [1])
    assert "linux-1 has another owner" in task.attempt_reasons[0]
    await desk.hear(desk.leased(only(LeaseMachine, said), epoch=10))
    of = {"task_id": task_id, "attempt": 2, "stage": "guest"}
    await desk.hear(PluginStageCompleted(**of, result_ids=("res_" + "8" * 32,), ended_by="sample_exit"))
    await desk.hear(PluginStageCompleted(task_id=task_id, attempt=1, stage="post", result_ids=()))
    [lost] = only(SealReport, await desk.said()).lost_attempts
    assert (lost.number, lost.machine_id, lost.outcome, lost.reason) == (
        *(1, "linux-1", "lease_lost"),
        task.attempt_reasons[0],
    )
    assert lost.began_at is not None
    assert lost.began_at < lost.ended_at


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
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier release put down no such work: its tasks have budgets and repetitions, however many they are."""
    monkeypatch.setattr(timers, "TASKS_RESUMED_AT_ONCE", 1)
    task_ids = {await desk.submit(f"task {count}") for count in range(3)}
    await desk.store.fetch("DELETE FROM work")
    await desk.store.fetch("DELETE FROM holding")
    projector = Projector(desk.store, TASKS)
    while (await projector.advance())[0]:
        pass
    runtime = Runtime(settings(), desk.store, BlobStore(tmp_path), desk.clock, announce)
    await timers.resume(runtime)
    watched = "SELECT key FROM work WHERE kind = 'wait'"
    assert {row["key"] for row in await desk.store.fetch(watched)} == task_ids
    [holder] = [row["task_id"] for row in await desk.store.fetch("SELECT task_id FROM holding")]
    await desk.said()
    assert only(LeaseMachine, await desk.pass_time(62)).task_id == holder
