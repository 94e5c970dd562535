"""The usual course of a task at the desk: the facts that lead it to a state, and what may be left of it."""

from contracts.envelope import Message
from contracts.plugins import ObservationEnded, PluginStageCompleted, PluginStageStarted, SampleStarted
from contracts.results import ReportReady
from contracts.scheduler import (
    LeaseMachine,
)
from services.chassis.store import Store
from services.scheduler.domain.task import Task
from tests.contracts.examples import BLOB
from tests.integration.scheduler_desk import RESULT, Desk, only


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
