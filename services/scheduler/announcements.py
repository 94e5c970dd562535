"""What of a task's history is public, and which orders follow from it. Pure."""

from collections.abc import Callable, Iterable
from typing import Any

from contracts import scheduler as public
from contracts.envelope import Message
from services.scheduler.domain.task import Task, events

ERRORS_MAX = 50
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
    yield public.LeaseMachine(
        operation_id=event.operation_id,
        task_id=task.task_id,
        machine_id=event.machine_id,
        host=event.host,
        route=task.request.route,
        hold_s=task.hold_s,
    )


def _granted(_event: Any, task: Task) -> Iterable[Message]:
    if task.guest is not None:
        yield public.TaskStarted(task_id=task.task_id, machine_id=task.guest.lease.machine_id, attempt=task.attempts)


def _stage_requested(event: events.StageRequested, task: Task) -> Iterable[Message]:
    stage = task.plan.stage(event.stage)
    if stage is not None:
        yield public.RunStage(
            task_id=task.task_id,
            attempt=event.attempt,
            stage=stage,
            sample=task.sample,
            request=task.request,
            guest=task.guest if event.stage == "guest" else None,
        )


def _attempt_failed(event: events.AttemptFailed, task: Task) -> Iterable[Message]:
    yield public.TaskRequeued(task_id=task.task_id, attempt=task.attempts, reason=event.reason)
    if task.attempts:
        yield public.CancelStage(task_id=task.task_id, attempt=task.attempts, stage="guest", reason=event.reason)


def _machine_returned(event: events.MachineReturned, task: Task) -> Iterable[Message]:
    yield public.ReleaseMachine(
        task_id=task.task_id,
        machine_id=event.machine_id,
        host=event.host,
        lease_id=event.lease_id,
        epoch=event.epoch,
    )


def _cancel_requested(event: events.CancelRequested, task: Task) -> Iterable[Message]:
    for stage in task.running_stages():
        yield public.CancelStage(
            task_id=task.task_id,
            attempt=task.attempt_of(stage),
            stage=stage,
            reason=event.reason or f"cancelled by {event.by}",
        )


def _report_requested(event: events.ReportRequested, task: Task) -> Iterable[Message]:
    ran_on = task.ran_on
    yield public.SealReport(
        task_id=task.task_id,
        submission_id=task.submission_id,
        owner=task.owner,
        sample=task.sample,
        request=task.request,
        plan=task.plan,
        submitted_at=task.created_on,
        observed_from=task.observed_from,
        machine_id=ran_on.lease.machine_id if ran_on else None,
        platform=ran_on.platform if ran_on else None,
        acceleration=ran_on.acceleration if ran_on else "none",
        attempts=task.attempts,
        outcome=event.outcome,
        reason=event.reason,
        ended_by=task.ended_by,
        result_ids=tuple(dict.fromkeys(task.result_ids)),
        errors=tuple(task.errors[:ERRORS_MAX]),
    )


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
    events.ReportRequested: _report_requested,
    events.Completed: _ended(public.TaskCompleted),
    events.Failed: _ended(public.TaskFailed),
    events.TimedOut: _ended(public.TaskTimedOut),
    events.Cancelled: _ended(public.TaskCancelled),
}


def announce(event: Any, task: Task) -> Iterable[Message]:
    """The facts and orders that the event is."""
    words = WORDS.get(type(event))
    return words(event, task) if words else ()
