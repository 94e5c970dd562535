"""What a test does with a task as a whole: what it said, where it is, its usual end."""

from contracts.envelope import Message
from services.scheduler.announcements import announce
from services.scheduler.domain.task import Task
from tests.unit.scheduler.tasks import NOW


def said(task: Task) -> list[Message]:
    """What the task's new events announce."""
    return [message for event in task.collect_events() for message in announce(event, task)]


def state(task: Task) -> str:
    """The task's state, read anew."""
    return task.state


def finish(task: Task, *, stages: tuple[str, ...] = ("static", "guest", "post")) -> Task:
    """Every stage ends well, the report is sealed, the machine is clean."""
    for stage in stages:
        task.end_stage(stage, 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.seal("benign", 0, NOW)
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    return task
