"""What of a task's history is public, and which orders follow from it. Pure.

A message has its bound, a task's history has none: what the order to seal tells of it is cut, and says how much is left
out. Only results are never left out: those for which it has no room are named in messages beside it.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from contracts import scheduler as public
from contracts.envelope import Message
from contracts.fitting import fitting, shortened
from contracts.limits import RESULTS_NAMED_MAX
from contracts.planning import Plan
from contracts.plugins import RunError
from services.scheduler.domain.task import Task, events
from services.scheduler.domain.task.waits import Wait

ERRORS_MAX_BYTES = 12 * 1024
REASON_MAX_BYTES = 2 * 1024
LOST_ERRORS_MAX_BYTES = 2 * 1024  # of one attempt that was lost
LOST_REASON_MAX_BYTES = 600
RESULTS_WITH_SEAL_MAX = 256
"""Beside the largest request, errors and reasons this leaves room for the envelope in 64 KiB."""
Words = Callable[[Any, Task], Iterable[Message]]


def _planned(_event: Any, task: Task) -> Iterable[Message]:
    yield public.TaskPlanned(
        task_id=task.task_id,
        submission_id=task.submission_id,
        owner=task.owner,
        sample=task.sample,
        request=task.request,
        plan=task.plan,
    )


def _queued(event: events.Queued, task: Task) -> Iterable[Message]:
    yield public.TaskQueued(task_id=task.task_id, waiting_for=event.waiting_for)


def _matched(event: events.Matched, task: Task) -> Iterable[Message]:
    yield _lease(task, event.machine_id, event.host, event.operation_id)


def _lease(task: Task, machine_id: str, host: str, operation_id: str) -> Message:
    return public.LeaseMachine(
        operation_id=operation_id,
        task_id=task.task_id,
        machine_id=machine_id,
        host=host,
        route=task.request.route,
        untrusted=task.request.untrusted,
        hold_s=task.hold_s,
        owner=task.owner,
    )


def _granted(_event: Any, task: Task) -> Iterable[Message]:
    if task.guest is not None:
        yield public.TaskStarted(task_id=task.task_id, machine_id=task.guest.lease.machine_id, attempt=task.attempts)


def _stage_requested(event: events.StageRequested, task: Task) -> Iterable[Message]:
    yield from _run(task, event.stage, event.attempt)


def _run(task: Task, name: str, attempt: int) -> Iterable[Message]:
    stage = task.plan.stage(name)
    if stage is not None:
        yield public.RunStage(
            task_id=task.task_id,
            attempt=attempt,
            stage=stage,
            sample=task.sample,
            request=task.request,
            guest=task.guest if name == "guest" else None,
            budgets=task.budgets,
            owner=task.owner,
            submission_id=task.submission_id,
        )


def _attempt_failed(event: events.AttemptFailed, task: Task) -> Iterable[Message]:
    yield public.TaskRequeued(task_id=task.task_id, attempt=task.attempts, reason=event.reason)
    if task.attempts:
        yield public.CancelStage(task_id=task.task_id, attempt=task.attempts, stage="guest", reason=event.reason)


def _machine_returned(event: events.MachineReturned, task: Task) -> Iterable[Message]:
    yield _release(task, event.machine_id, event.host, event.lease_id, event.epoch)


def _release(task: Task, machine_id: str, host: str, lease_id: str, epoch: int) -> Message:
    return public.ReleaseMachine(task_id=task.task_id, machine_id=machine_id, host=host, lease_id=lease_id, epoch=epoch)


def _cancel_requested(event: events.CancelRequested, task: Task) -> Iterable[Message]:
    for stage in task.running_stages():
        yield _cancel(task, stage, event.reason or f"cancelled by {event.by}")
    if task.state == "reporting":  # the report that is being made is to say so, too
        yield from _seal(task, event.timestamp)


def _budget_spent(event: events.BudgetSpent, task: Task) -> Iterable[Message]:
    if event.stage is not None:
        yield _cancel(task, event.stage, event.reason)


def _cancel(task: Task, stage: str, reason: str) -> Message:
    return public.CancelStage(task_id=task.task_id, attempt=task.attempt_of(stage), stage=stage, reason=reason)


def _report_requested(event: events.ReportRequested, task: Task) -> Iterable[Message]:
    yield from _seal(task, event.timestamp)


def _seal(task: Task, at: datetime) -> Iterable[Message]:
    """The order, and the messages that name the results for which it has no room."""
    ran_on = task.ran_on
    result_ids = tuple(dict.fromkeys(task.result_ids))
    others = result_ids[RESULTS_WITH_SEAL_MAX:]
    for part, first in enumerate(range(0, len(others), RESULTS_NAMED_MAX), start=1):
        named = others[first : first + RESULTS_NAMED_MAX]
        yield public.NameResults(task_id=task.task_id, part=part, result_ids=named)
    yield public.SealReport(
        task_id=task.task_id,
        submission_id=task.submission_id,
        owner=task.owner,
        sample=task.sample,
        request=task.request,
        plan=Plan(stages=()),
        submitted_at=task.created_on,
        observed_from=task.observed_from,
        machine_id=ran_on.lease.machine_id if ran_on else None,
        platform=ran_on.platform if ran_on else None,
        acceleration=ran_on.acceleration if ran_on else "none",
        attempts=task.attempts,
        outcome=task.outcome or "failed",
        reason=shortened(task.outcome_reason, REASON_MAX_BYTES),
        ended_by=task.ended_by,
        result_ids=result_ids[:RESULTS_WITH_SEAL_MAX],
        more_results=len(others),
        errors=_errors(task),
        phases=task.phases(at),
        attempt_reasons=tuple(shortened(reason, REASON_MAX_BYTES) for reason in task.attempt_reasons),
        lost_attempts=tuple(_lost(attempt) for attempt in task.lost_attempts),
        parent=task.parent,
    )


def _lost(attempt: public.LostAttempt) -> public.LostAttempt:
    """The attempt with as many of its errors as fit, in their order, and the number of the others."""
    told = fitting(_short(attempt.errors, LOST_REASON_MAX_BYTES), LOST_ERRORS_MAX_BYTES)
    left_out = len(attempt.errors) - len(told)
    reason = shortened(attempt.reason, REASON_MAX_BYTES)
    return attempt.model_copy(update={"reason": reason, "errors": told, "errors_left_out": left_out})


def _short(errors: Iterable[RunError], reason_max_bytes: int) -> list[RunError]:
    return [error.model_copy(update={"reason": shortened(error.reason, reason_max_bytes)}) for error in errors]


def _errors(task: Task) -> tuple[RunError, ...]:
    """As many as fit, in their order; how many more there are is an error of its own."""
    short = _short(task.errors, REASON_MAX_BYTES)
    told = fitting(short, ERRORS_MAX_BYTES)
    if len(told) == len(short):
        return told
    words = f"{len(short) - len(told)} more errors of this task: malbox plugin log TASK lists every run"
    return (*told, RunError(stage=short[len(told)].stage, outcome="failed", reason=words))


def _ended(kind: type[public.TaskEnded]) -> Words:
    def words(_event: Any, task: Task) -> Iterable[Message]:
        yield kind(
            task_id=task.task_id,
            attempts=task.attempts,
            machine=task.machine,
            reason=task.outcome_reason,
            ended_by=task.ended_by,
        )

    return words


def _unserviceable(_event: events.Unserviceable, task: Task) -> Iterable[Message]:
    yield public.TaskUnserviceable(task_id=task.task_id, reason=task.outcome_reason)


def _refused(event: events.Refused, task: Task) -> Iterable[Message]:
    yield public.TaskUnserviceable(task_id=task.task_id, reason=event.reason)


WORDS: dict[type[Any], Words] = {
    events.Planned: _planned,
    events.Refused: _refused,
    events.Queued: _queued,
    events.Matched: _matched,
    events.MachineGranted: _granted,
    events.StageRequested: _stage_requested,
    events.AttemptFailed: _attempt_failed,
    events.MachineReturned: _machine_returned,
    events.CancelRequested: _cancel_requested,
    events.BudgetSpent: _budget_spent,
    events.ReportRequested: _report_requested,
    events.Completed: _ended(public.TaskCompleted),
    events.Failed: _ended(public.TaskFailed),
    events.TimedOut: _ended(public.TaskTimedOut),
    events.Cancelled: _ended(public.TaskCancelled),
    events.Unserviceable: _unserviceable,
}


def announce(event: Any, task: Task) -> Iterable[Message]:
    """The facts and orders that the event is."""
    words = WORDS.get(type(event))
    return words(event, task) if words else ()


def again(wait: Wait, task: Task, at: datetime) -> Iterable[Message]:
    """The order whose answer is waited for, once more: its receiver tells a repetition by what it orders."""
    match wait.what:
        case "lease" if task.machine_id is not None:
            yield _lease(task, task.machine_id, task.machine_host, task.operation_id)
        case "release":
            for machine_id, lost in task.returned.items():
                yield _release(task, machine_id, lost.host, lost.lease_id, lost.epoch)
        case "seal":  # what waits may be a result that was said and lost: whoever ran the stages says it again
            yield from _seal(task, at)
            for stage, state in task.stages.items():
                if state != "skipped":
                    yield from _run(task, stage, task.attempt_of(stage))
        case stage if stage in task.running_stages():
            yield from _run(task, stage, task.attempt_of(stage))
            if task.cancelled_by is not None or f"host_plugins:{stage}" in task.overrun_phases:
                yield _cancel(task, stage, task.why)
