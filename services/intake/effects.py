"""A submitted task is said again until the scheduler has been heard to know it, however long that takes.

The broker may lose everything it holds; the store is the truth. The message keeps its id, so that a scheduler that did
get it does nothing twice.
"""

from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.intake.adapters.tables import find_family, find_submission
from services.intake.app import CONFIRM_AFTER_S, CONFIRM_TASK, say_task

CONFIRM_LATEST_S = 600.0


async def confirm_task(item: WorkItem, context: WorkContext) -> None:
    """The task has been said once more, and will be again later. Hearing of it deletes this work."""
    submission = await find_submission(context.store, str(item.payload["submission_id"]))
    if submission is None:
        return
    family = await find_family(context.store, submission.submission_id)
    tasks = (*submission.tasks, *(submission.children(family) if family else ()))

    async def decide(unit: Unit) -> None:
        for task in tasks:
            if task.task_id == item.key:
                say_task(submission, task, unit)

    await context.commit(decide)
    await context.reschedule(min(CONFIRM_AFTER_S * 2 ** min(item.attempt, 8), CONFIRM_LATEST_S))


RUNNERS = (Runner(kind=CONFIRM_TASK, run=confirm_task, attempts_max=None),)
