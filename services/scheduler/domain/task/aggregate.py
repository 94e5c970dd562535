"""The task aggregate: what was asked, what was planned, what has ended, and so what comes next. Pure.

It is a process manager: each fact that it hears is recorded, then `_advance` records every next step that is now due.
Stages `static` and `guest` run side by side; `post` follows both; the report follows all; the end follows the report
and a machine that is clean or out of the pool.
"""

from datetime import datetime
from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from contracts.ids import derived, uuid_of
from contracts.intake import TaskSubmitted
from contracts.limits import ATTEMPTS_MAX
from contracts.machines import LeaseExpired, MachineLeased
from contracts.planning import Plan
from contracts.plugins import RunError
from contracts.scheduler import GuestAssignment, MachineCondition, TaskState
from contracts.submission import AnalysisRequest, SampleRef
from services.scheduler.domain.lifecycle import is_terminal, successor
from services.scheduler.domain.task import events
from services.scheduler.domain.task.events import Outcome, StageOutcome

HOLD_MARGIN_S = 300
"""What a lease lasts beyond the observation: preparing, collecting, and slow emulation."""
MATCHES_MAX = 100
"""Refused matches before the task gives up; each is a race lost, so many mean that something is wrong."""

ENDED = ("completed", "failed", "skipped")


class NotPossible(Exception):
    """The task's state does not allow this; nothing was changed. The message says why."""


class Task(Aggregate):
    """One analysis of one sample."""

    TOPIC: ClassVar[str] = "task"

    Event = events.Event
    Submitted = events.Submitted
    Planned = events.Planned
    Refused = events.Refused
    Queued = events.Queued
    Matched = events.Matched
    MatchRefused = events.MatchRefused
    MachineGranted = events.MachineGranted
    StageRequested = events.StageRequested
    ObservationEnded = events.ObservationEnded
    StageEnded = events.StageEnded
    AttemptFailed = events.AttemptFailed
    MachineReturned = events.MachineReturned
    MachineLeft = events.MachineLeft
    CancelRequested = events.CancelRequested
    ReportRequested = events.ReportRequested
    ReportSealed = events.ReportSealed
    Completed = events.Completed
    Failed = events.Failed
    TimedOut = events.TimedOut
    Cancelled = events.Cancelled

    def __init__(self, submission: dict[str, Any]) -> None:
        asked = TaskSubmitted.model_validate(submission)
        self.task_id = asked.task_id
        self.submission_id = asked.submission_id
        self.owner = asked.owner
        self.sample: SampleRef = asked.sample
        self.request: AnalysisRequest = asked.request
        self.state: TaskState = "submitted"
        self.state_since: datetime | None = None
        self.why = "what will run is being decided"
        self.plan = Plan(stages=())
        self.stages: dict[str, str] = {}
        self.stage_since: dict[str, datetime] = {}
        self.result_ids: list[str] = []
        self.errors: list[RunError] = []
        self.attempts = 0
        self.matches = 0
        self.attempt_reasons: list[str] = []
        self.machine_id: str | None = None
        self.machine_host = ""
        self.operation_id = ""
        self.guest: GuestAssignment | None = None
        self.ran_on: GuestAssignment | None = None
        self.machine: MachineCondition = "none"
        self.reverting: set[str] = set()
        self.left: dict[str, tuple[int, str]] = {}
        self.observed_from: datetime | None = None
        self.ended_by: str | None = None
        self.cancelled_by: str | None = None
        self.outcome: Outcome | None = None
        self.outcome_reason = ""
        self.report_ready_at: datetime | None = None
        self.verdict: str | None = None
        self.score: int | None = None
        self.history: list[tuple[str, datetime, str]] = []

    @classmethod
    def submit(cls, asked: TaskSubmitted, at: datetime) -> "Task":
        """A task exists for the submission."""
        return cls._create(
            cls.Submitted, id=uuid_of(asked.task_id), timestamp=at, submission=asked.model_dump(mode="json")
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing can happen any more."""
        return is_terminal(self.state)

    @property
    def hold_s(self) -> int:
        """How long a lease for this task may last, seconds."""
        return self.request.timeout_s + HOLD_MARGIN_S

    def refuse(self, reason: str, at: datetime) -> None:
        """It can never run."""
        self._happen(events.Refused, at, reason=reason)

    def start(self, plan: Plan, waiting_for: str, at: datetime) -> None:
        """The plan is frozen; what needs no machine begins, what needs one is queued."""
        self._happen(events.Planned, at, plan=plan.model_dump(mode="json"))
        if "guest" in self.stages:
            self._happen(events.Queued, at, waiting_for=waiting_for)
        if "static" in self.stages:
            self._request("static", at)
        self._advance(at)

    def match(self, machine_id: str, host: str, at: datetime) -> None:
        """The machine is asked for. Raises NotPossible unless the task is queued."""
        operation_id = derived("ope", self.task_id, self.matches + 1)
        self._happen(events.Matched, at, machine_id=machine_id, host=host, operation_id=operation_id)

    def refuse_match(self, operation_id: str, reason: str, at: datetime) -> None:
        """The machine was not to be had: wait for another."""
        if self.state != "preparing" or operation_id != self.operation_id:
            return
        self._happen(events.MatchRefused, at, reason=reason)
        if self.matches >= MATCHES_MAX:
            self._end_guest("failed", f"no machine could be had in {MATCHES_MAX} tries: {reason}", at)
        self._advance(at)

    def grant(self, fact: MachineLeased, at: datetime) -> None:
        """The machine is the task's. One that comes too late is given back at once."""
        guest = GuestAssignment.model_validate(fact.model_dump())
        if self.guest is not None and self.guest.lease == fact.lease:
            return
        is_expected = self.state == "preparing" and self.machine_id == fact.machine_id
        if not is_expected or self.cancelled_by is not None:
            self._give_back(fact.machine_id, self.machine_host, fact.lease.lease_id, fact.lease.epoch, at)
            if is_expected:
                self._end_guest("skipped", "the task was cancelled", at)
            self._advance(at)
            return
        self._happen(events.MachineGranted, at, guest=guest.model_dump(mode="json"))
        self._request("guest", at)
        self._advance(at)

    def end_observation(self, attempt: int, ended_by: str, at: datetime) -> None:
        """Watching is over."""
        if self.state == "running" and attempt == self.attempts and self.stages.get("guest") == "running":
            self._happen(events.ObservationEnded, at, ended_by=ended_by)

    def end_stage(
        self,
        stage: str,
        attempt: int,
        *,
        at: datetime,
        reason: str = "",
        is_failed: bool = False,
        is_retryable: bool = False,
        result_ids: tuple[str, ...] = (),
        errors: tuple[RunError, ...] = (),
        ended_by: str | None = None,
    ) -> None:
        """The stage ran, or could not. A late word about an earlier attempt changes nothing."""
        if self.stages.get(stage) != "running" or attempt != self.attempt_of(stage):
            return
        if stage == "guest" and is_failed and is_retryable and self._may_retry():
            self._retry(reason, at)
        else:
            self._happen(
                events.StageEnded,
                at,
                stage=stage,
                attempt=attempt,
                outcome="failed" if is_failed else "completed",
                reason=reason,
                result_ids=list(result_ids),
                errors=[error.model_dump(mode="json") for error in errors],
                ended_by=ended_by,
            )
            if stage == "guest":
                self._return_machine(at)
        self._advance(at)

    def lose_machine(self, fact: LeaseExpired, at: datetime) -> None:
        """The lease ended without the task's word: the attempt is lost; a deadline allows no other."""
        if self.is_over:
            return
        was_preparing = self.state == "preparing" and self.machine_id == fact.machine_id
        was_ours = self.guest is not None and self.guest.lease.lease_id == fact.lease_id
        if not (was_ours or was_preparing):
            return
        self._give_back(fact.machine_id, self.machine_host, fact.lease_id, fact.epoch, at)
        if fact.cause == "deadline" or not self._may_retry():
            self._end_guest("failed", fact.reason, at, ended_by="timeout" if fact.cause == "deadline" else "guest_lost")
        else:
            self._retry(fact.reason, at)
        self._advance(at)

    def machine_left(self, machine_id: str, condition: str, at: datetime, *, epoch: int) -> None:
        """The machine that the task used is clean, or out of the pool; its loss may be heard of only later."""
        if self.is_over:
            return
        is_early = machine_id == self.machine_id and epoch > self.left.get(machine_id, (-1, ""))[0]
        if machine_id in self.reverting or is_early:
            self._happen(events.MachineLeft, at, machine_id=machine_id, condition=condition, epoch=epoch)
            self._advance(at)

    def cancel(self, by: str, reason: str, at: datetime) -> None:
        """The task ends as soon as what runs has stopped. Raises NotPossible when it is over."""
        if self.is_over:
            raise NotPossible(f"the task is already {self.state}")
        if self.cancelled_by is not None:
            return
        self._happen(events.CancelRequested, at, by=by, reason=reason)
        self._advance(at)

    def seal(self, verdict: str, score: int, at: datetime, *, missing_results: int = 0) -> None:
        """The report can be read. Results that could not be had make the task a failed one."""
        if self.state == "reporting" and self.report_ready_at is None:
            self._happen(events.ReportSealed, at, verdict=verdict, score=score, missing_results=missing_results)
            self._advance(at)

    def running_stages(self) -> list[str]:
        """The stages that are running now."""
        return [name for name, state in self.stages.items() if state == "running"]

    def attempt_of(self, stage: str) -> int:
        """The attempt that the stage's messages carry: only the guest stage is tried again."""
        return max(1, self.attempts) if stage == "guest" else 1

    def _advance(self, at: datetime) -> None:
        """Every step that is due by now is recorded."""
        if self.is_over:
            return
        if self.cancelled_by is not None and self.state == "queued":
            self._end_guest("skipped", "the task was cancelled", at)
        before_post = [self.stages.get(name) for name in ("static", "guest") if name in self.stages]
        if self.state != "reporting" and all(state in ENDED for state in before_post):
            self._after_evidence(at)
        if self.state == "reporting" and self.report_ready_at is not None and not self.reverting and not self.guest:
            self._end(at)

    def _after_evidence(self, at: datetime) -> None:
        if self.stages.get("post") == "pending":
            if self.cancelled_by is None and "completed" in self.stages.values():
                self._request("post", at)
            else:
                reason = "the task was cancelled" if self.cancelled_by else "no stage before it brought anything"
                self._end_stage("post", "skipped", reason, at)
        if self.stages.get("post") != "running" and self.guest is None:
            outcome, reason = self._judge()
            self._happen(events.ReportRequested, at, outcome=outcome, reason=reason)

    def _judge(self) -> tuple[Outcome, str]:
        """How the task ends, by the contract of 'completed': some result, and the guest stage if one was planned."""
        if self.cancelled_by is not None:
            return "cancelled", f"cancelled by {self.cancelled_by}"
        failed = [error.reason for error in self.errors if error.plugin is None]
        if self.stages.get("guest") == "failed" and self.ended_by == "timeout":
            return "timed_out", "; ".join(failed)
        if self.stages.get("guest") == "failed" or (self.stages and not self.result_ids):
            return "failed", "; ".join(failed) or "no plugin produced a result"
        return "completed", ""

    def _end(self, at: datetime) -> None:
        ends: dict[Outcome, type[events.Event]] = {
            "completed": events.Completed,
            "failed": events.Failed,
            "timed_out": events.TimedOut,
            "cancelled": events.Cancelled,
        }
        self._happen(ends[self.outcome or "failed"], at)

    def _may_retry(self) -> bool:
        return len(self.attempt_reasons) + 1 < ATTEMPTS_MAX and self.cancelled_by is None

    def _retry(self, reason: str, at: datetime) -> None:
        self._happen(events.AttemptFailed, at, reason=reason)
        self._return_machine(at)
        self._happen(events.Queued, at, waiting_for=f"another attempt: {reason}")

    def _end_guest(self, outcome: StageOutcome, reason: str, at: datetime, *, ended_by: str | None = None) -> None:
        if self.stages.get("guest") in ("pending", "running"):
            self._end_stage("guest", outcome, reason, at, ended_by=ended_by)

    def _end_stage(
        self, stage: str, outcome: StageOutcome, reason: str, at: datetime, *, ended_by: str | None = None
    ) -> None:
        self._happen(
            events.StageEnded,
            at,
            stage=stage,
            attempt=self.attempt_of(stage),
            outcome=outcome,
            reason=reason,
            result_ids=[],
            errors=[],
            ended_by=ended_by,
        )

    def _request(self, stage: str, at: datetime) -> None:
        self._happen(events.StageRequested, at, stage=stage, attempt=self.attempt_of(stage))

    def _return_machine(self, at: datetime) -> None:
        if self.guest is not None:
            lease = self.guest.lease
            self._give_back(lease.machine_id, self.machine_host, lease.lease_id, lease.epoch, at)

    def _give_back(self, machine_id: str, host: str, lease_id: str, epoch: int, at: datetime) -> None:
        if not self.is_over:
            self._happen(events.MachineReturned, at, machine_id=machine_id, host=host, lease_id=lease_id, epoch=epoch)

    def _happen(self, event: Any, at: datetime, **details: Any) -> None:
        if successor(self.state, event.__name__) is None:
            raise NotPossible(f"task {self.task_id} is {self.state}: {event.__name__} cannot happen")
        self.trigger_event(event, timestamp=at, **details)

    def _move(self, event: str, at: datetime) -> None:
        state = successor(self.state, event)
        if state is None:
            raise NotPossible(f"{event} in {self.state}")
        if state != self.state:
            self.history.append((self.state, self.state_since or at, self.why))
            self.state_since = at
        self.state = state
