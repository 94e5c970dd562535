"""What a task waits for, since when, and how long it may. Pure.

Every wait but the queue's is for a message. The broker may lose everything it holds, so an order that is not answered
is given again: after a minute, then at growing intervals. Whoever did get it does nothing twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.scheduler.domain.task.record import Record

REPEAT_FIRST_S = 60
REPEAT_MAX_S = 600
LEASE_SLACK_S = 120
"""How long after the hosts' own deadlines their word is waited for, before the task ends the lease by itself."""
STOP_PATIENCE_S = 60
"""How long a stage that was told to stop may take to say so."""


@dataclass(frozen=True)
class Wait:
    """One thing that is waited for: `queue`, `lease`, a stage's name, `release` or `seal`."""

    what: str
    since: datetime
    deadline_at: datetime | None = None

    @property
    def is_answered_by_message(self) -> bool:
        """Whether somebody was asked."""
        return self.what != "queue"

    def is_overdue(self, now: datetime) -> bool:
        """Whether it lasted longer than it may."""
        return self.deadline_at is not None and now >= self.deadline_at

    def is_silent(self, now: datetime) -> bool:
        """Whether the order should be given again."""
        return self.is_answered_by_message and now >= self.since + timedelta(seconds=REPEAT_FIRST_S)

    def next_look_at(self, now: datetime) -> datetime | None:
        """When something is to be done about it."""
        instants = [self.deadline_at] if self.deadline_at is not None else []
        if self.is_answered_by_message:
            instants.append(_next_repeat(self.since, now))
        return min(instants, default=None)


def waits(task: Record) -> list[Wait]:
    """Everything that the task waits for now."""
    return [] if task.is_over else list(_waits(task))


def next_look_at(task: Record, now: datetime) -> datetime | None:
    """When the task is to be looked at again if nothing is heard until then; None when nothing is waited for."""
    instants = [wait.next_look_at(now) for wait in waits(task)]
    return min((instant for instant in instants if instant is not None), default=None)


def _waits(task: Record) -> Iterator[Wait]:
    budgets = task.budgets
    if task.state == "queued" and (since := task.open_phases.get("queue")) is not None:
        yield Wait("queue", since, since + timedelta(seconds=budgets.queue_s - task.spent_s.get("queue", 0.0)))
    if task.state == "preparing" and (since := task.open_phases.get("boot")) is not None:
        yield Wait("lease", since, since + timedelta(seconds=budgets.boot_s))
    for stage in task.running_stages():
        since = task.stage_since[stage]
        yield Wait(stage, since, _stage_deadline(task, stage))
    if task.returned:
        since = min(returned.at for returned in task.returned.values())
        yield Wait("release", since, _unless_spent(task, "cleanup", since + timedelta(seconds=budgets.cleanup_s)))
    if task.state == "reporting" and task.report_ready_at is None and task.state_since is not None:
        yield Wait("seal", task.state_since)


def _stage_deadline(task: Record, stage: str) -> datetime | None:
    if task.cancelled_at is not None:
        return max(task.cancelled_at, task.stage_since[stage]) + timedelta(seconds=STOP_PATIENCE_S)
    return _guest_deadline(task) if stage == "guest" else _host_deadline(task, stage)


def _guest_deadline(task: Record) -> datetime | None:
    """The hosts' own deadlines come first; this one holds when their word was lost."""
    if task.granted_at is None:
        return None
    ends = [task.granted_at + timedelta(seconds=task.hold_s)]
    if (collecting_since := task.open_phases.get("collection")) is not None:
        ends.append(collecting_since + timedelta(seconds=task.budgets.collection_s))
    return min(ends) + timedelta(seconds=LEASE_SLACK_S)


def _host_deadline(task: Record, stage: str) -> datetime | None:
    """A stage that waits for its turn spends nothing."""
    began = task.stage_began.get(stage)
    if began is None:
        return None
    allowed_s = task.budgets.host_plugins_s
    if f"host_plugins:{stage}" in task.overrun_phases:
        allowed_s += STOP_PATIENCE_S
    return began + timedelta(seconds=allowed_s)


def _unless_spent(task: Record, phase: str, at: datetime) -> datetime | None:
    return None if phase in task.overrun_phases else at


def _next_repeat(since: datetime, now: datetime) -> datetime:
    """The first instant after now of a series whose steps double up to a limit."""
    step_s = REPEAT_FIRST_S
    instant = since + timedelta(seconds=step_s)
    while instant <= now:
        step_s = min(2 * step_s, REPEAT_MAX_S)
        instant += timedelta(seconds=step_s)
    return instant
