"""A task that is cancelled ends, in whatever state, and keeps no machine: real PostgreSQL, real handlers and work."""

from collections.abc import AsyncIterator

import pytest

from contracts.intake import TaskCancellationRequested
from contracts.plugins import PluginStageCompleted
from contracts.results import ReportReady
from contracts.scheduler import (
    CancelStage,
    LeaseMachine,
    ReleaseMachine,
    SealReport,
    TaskCancelled,
    TaskEnded,
)
from services.scheduler.domain.task import NotPossible
from tests.contracts.examples import BLOB
from tests.integration.scheduler_course import finish, run_until
from tests.integration.scheduler_desk import Desk, furnished, only

pytestmark = pytest.mark.integration


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    """A scheduler that knows plugins and one machine."""
    async with furnished(database_url) as made:
        yield made


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
