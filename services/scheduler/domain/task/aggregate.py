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
from contracts.planning import Budgets, Phase, Plan
from contracts.plugins import RunError
from contracts.scheduler import AttemptOutcome, GuestAssignment
from services.scheduler.domain.lifecycle import successor
from services.scheduler.domain.task import events
from services.scheduler.domain.task.events import StageOutcome
from services.scheduler.domain.task.record import NotPossible, Outcome, Record

MATCHES_MAX = 100
"""Refused matches before the task gives up; each is a race lost, so many mean that something is wrong."""

ENDED = ("completed", "failed", "skipped")
FINAL_CAUSES = ("deadline", "collection_deadline", "isolation_breached")
"""Ends of a lease after which there is no other attempt: its time is used up, or the sample is too dangerous."""


class Task(Record, Aggregate):
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
    StageBegan = events.StageBegan
    ObservationStarted = events.ObservationStarted
    ObservationEnded = events.ObservationEnded
    StageEnded = events.StageEnded
    AttemptFailed = events.AttemptFailed
    MachineReturned = events.MachineReturned
    MachineLeft = events.MachineLeft
    CancelRequested = events.CancelRequested
    BudgetSpent = events.BudgetSpent
    Stranded = events.Stranded
    ReportRequested = events.ReportRequested
    ReportSealed = events.ReportSealed
    VerdictChanged = events.VerdictChanged
    Completed = events.Completed
    Failed = events.Failed
    TimedOut = events.TimedOut
    Cancelled = events.Cancelled
    Unserviceable = events.Unserviceable

    def __init__(self, submission: dict[str, Any]) -> None:
        self.begin(TaskSubmitted.model_validate(submission))

    @classmethod
    def submit(cls, asked: TaskSubmitted, at: datetime) -> "Task":
        """A task exists for the submission."""
        return cls._create(
            cls.Submitted, id=uuid_of(asked.task_id), timestamp=at, submission=asked.model_dump(mode="json")
        )

    def refuse(self, reason: str, at: datetime) -> None:
        """It can never run."""
        self._happen(events.Refused, at, reason=reason)

    def start(self, plan: Plan, waiting_for: str, at: datetime, budgets: Budgets | None = None) -> None:
        """Plan and budgets are frozen; what needs no machine begins, what needs one is queued."""
        allowed = (budgets or self.budgets).model_copy(update={"observation_s": self.request.timeout_s})
        self._happen(events.Planned, at, plan=plan.model_dump(mode="json"), budgets=allowed.model_dump(mode="json"))
        if "guest" in self.stages:
            self._happen(events.Queued, at, waiting_for=waiting_for)
        if "static" in self.stages:
            self._request("static", at)
        self._advance(at)

    def match(self, machine_id: str, host: str, at: datetime) -> None:
        """The machine is asked for. Raises NotPossible unless the task waits for one."""
        if not self.wants_machine:
            raise NotPossible(f"task {self.task_id} is {self.state} and waits for no machine")
        operation_id = derived("ope", self.task_id, self.matches + 1)
        self._happen(events.Matched, at, machine_id=machine_id, host=host, operation_id=operation_id)

    def refuse_match(self, operation_id: str, reason: str, at: datetime) -> None:
        """The machine was not to be had: wait for another."""
        if self.state != "preparing" or operation_id != self.operation_id or not self.is_guest_due:
            return
        self._happen(events.MatchRefused, at, reason=reason)
        if self.matches >= MATCHES_MAX:
            self._end_guest("failed", f"no machine could be had in {MATCHES_MAX} tries: {reason}", at)
        self._advance(at)

    def grant(self, fact: MachineLeased, at: datetime) -> None:
        """The machine is the task's. One that comes too late is given back at once."""
        guest = GuestAssignment.model_validate(fact.model_dump())
        is_over = fact.lease.epoch <= self.over_until.get(fact.machine_id, -1)
        if is_over or (self.guest is not None and self.guest.lease == fact.lease):
            return
        is_expected = self.state == "preparing" and self.machine_id == fact.machine_id and self.is_guest_due
        if not is_expected or self.cancelled_by is not None:
            host = fact.host or self.machine_host
            self._give_back(fact.machine_id, host, fact.lease.lease_id, fact.lease.epoch, at)
            if is_expected:
                self._end_guest("skipped", "the task was cancelled", at)
            self._advance(at)
            return
        self._happen(events.MachineGranted, at, guest=guest.model_dump(mode="json"))
        self._request("guest", at)
        self._advance(at)

    def begin_stage(self, stage: str, attempt: int, at: datetime) -> None:
        """The host stage's turn has come."""
        if stage != "guest" and self._is_running(stage, attempt) and stage not in self.stage_began:
            self._happen(events.StageBegan, at, stage=stage, attempt=attempt)

    def begin_observation(self, attempt: int, at: datetime) -> None:
        """The sample runs."""
        is_new = "boot" in self.open_phases
        if self.state == "running" and self._is_running("guest", attempt) and is_new:
            self._happen(events.ObservationStarted, at, attempt=attempt)

    def end_observation(self, attempt: int, ended_by: str, at: datetime) -> None:
        """Watching is over."""
        if self.state == "running" and self._is_running("guest", attempt):
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
        if not self._is_running(stage, attempt):
            return
        if stage == "guest" and is_failed and is_retryable and self._may_retry():
            self._retry(reason, at, "guest_lost" if ended_by == "guest_lost" else "failed", errors)
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

    def skip_stage(self, stage: str, reason: str, at: datetime) -> None:
        """The guest stage has nothing to do with the sample: a machine that it has, or is promised, goes back."""
        if stage == "guest" and self.is_guest_due and not self.is_over:
            self._end_guest("skipped", reason, at)
            self._return_machine(at)
            self._advance(at)

    def lose_machine(self, fact: LeaseExpired, at: datetime) -> None:
        """The lease ended without the task's word: the attempt is lost; a deadline allows no other.

        When collecting took too long only the machine is lost: what came until then will be said.
        """
        if self.is_over:
            return
        was_preparing = self.state == "preparing" and self.machine_id == fact.machine_id
        was_ours = self.guest is not None and self.guest.lease.lease_id == fact.lease_id
        is_over = fact.epoch <= self.over_until.get(fact.machine_id, -1)
        if not was_ours and (is_over or not was_preparing):
            return
        self._give_back(fact.machine_id, self.machine_host, fact.lease_id, fact.epoch, at)
        if fact.cause != "collection_deadline" or self.state != "collecting":
            ended_by = "timeout" if fact.cause in ("deadline", "collection_deadline") else "guest_lost"
            outcome: AttemptOutcome = "guest_lost" if fact.cause == "guest_lost" else "lease_lost"
            self._lose_guest(fact.reason, at, outcome, ended_by=ended_by, is_final=fact.cause in FINAL_CAUSES)
        self._advance(at)

    def lose_lease(self, epoch: int, reason: str, at: datetime) -> None:
        """The machine has another owner by now: what runs on the lease counts for nothing."""
        if self.guest is None or self.guest.lease.epoch >= epoch:
            return
        self._return_machine(at)
        self._lose_guest(reason, at, "lease_lost", ended_by="guest_lost")
        self._advance(at)

    def strand(self, reason: str, at: datetime) -> None:
        """It waits, and no machine that is known could ever run it; what needs no machine is still reported."""
        if self.wants_machine:
            self._happen(events.Stranded, at, reason=reason)
            self._end_guest("failed", reason, at)
            self._advance(at)

    def overrun(self, what: str, at: datetime) -> None:
        """A wait (`waits.py`) lasted longer than it may."""
        steps = {"queue": self._overrun_queue, "lease": self._overrun_boot, "guest": self._overrun_guest}
        if what == "release":
            self._spend("cleanup", None, f"the machine is being cleaned for longer than {self.budgets.cleanup_s} s", at)
        elif what in steps:
            steps[what](at)
        elif what in self.running_stages():
            self._overrun_stage(what, at)
        self._advance(at)

    def machine_left(self, machine_id: str, condition: str, at: datetime, *, epoch: int) -> None:
        """The machine that the task used is clean, or out of the pool; its loss may be heard of only later."""
        if self.is_over:
            return
        returned = self.returned.get(machine_id)
        if returned is not None and epoch < returned.epoch:
            return  # word of an earlier lease on the same machine, heard late or again
        is_early = machine_id == self.machine_id and epoch > self.left.get(machine_id, (-1, ""))[0]
        if machine_id in self.reverting or is_early:
            self._happen(events.MachineLeft, at, machine_id=machine_id, condition=condition, epoch=epoch)
            self._advance(at)

    def cancel(self, by: str, reason: str, at: datetime) -> None:
        """The task ends as soon as what runs has stopped. Raises NotPossible when it is over, or as good as over."""
        if self.is_over:
            raise NotPossible(f"the task is already {self.state}")
        if self.report_ready_at is not None:
            raise NotPossible("the report is sealed already; only the machine is still being cleaned")
        if self.cancelled_by is not None:
            return
        self._happen(events.CancelRequested, at, by=by, reason=reason)
        self._advance(at)

    def seal(self, verdict: str, score: int, at: datetime, *, missing_results: int = 0) -> None:
        """The report can be read. Results that could not be had make the task a failed one."""
        if self.state == "reporting" and self.report_ready_at is None:
            self._happen(events.ReportSealed, at, verdict=verdict, score=score, missing_results=missing_results)
            self._advance(at)

    def change_verdict(self, verdict: str, score: int, revision: int, at: datetime) -> None:
        """What is inside the sample was judged: that is the verdict now, in whatever order the words come."""
        is_possible = successor(self.state, "VerdictChanged") is not None
        if is_possible and revision > self.verdict_revision:
            self._happen(events.VerdictChanged, at, verdict=verdict, score=score, revision=revision)

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
        if self.is_stranded:
            return "unserviceable", "; ".join(failed)
        is_failed = self.stages.get("guest") == "failed"
        if self.ended_by == "timeout" and not is_failed:
            limit_s = self.budgets.observation_s + self.budgets.grace_s
            return "timed_out", f"something kept the observation alive up to its hard limit of {limit_s} s"
        if is_failed and (self.ended_by == "timeout" or "queue" in self.overrun_phases):
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
            "unserviceable": events.Unserviceable,
        }
        self._happen(ends[self.outcome or "failed"], at)

    def _overrun_queue(self, at: datetime) -> None:
        reason = f"no machine was free for {self.budgets.queue_s} s"
        self._spend("queue", None, reason, at)
        self._end_guest("failed", reason, at)

    def _overrun_boot(self, at: datetime) -> None:
        """The machine may still come: whoever comes too late is given back."""
        reason = f"machine {self.machine_id} was not ready within {self.budgets.boot_s} s"
        self._spend("boot", None, reason, at)
        if self.cancelled_by is not None:
            self._end_guest("skipped", "the task was cancelled", at)
        else:
            self._lose_guest(reason, at, "not_ready")

    def _overrun_guest(self, at: datetime) -> None:
        """Whatever still runs there is fenced off when the machine is taken back."""
        if self.cancelled_by is not None:
            self._end_guest("skipped", "the guest stage did not stop after it was cancelled", at, ended_by="cancelled")
        else:
            phase: Phase = "collection" if self.state == "collecting" else "observation"
            reason = f"no word of the guest stage within the {self.hold_s} s that its machine was held"
            if phase == "collection":
                reason = f"the evidence was not collected within {self.budgets.collection_s} s"
            self._spend(phase, "guest", reason, at)
            self._end_guest("failed", reason, at, ended_by="timeout")
        self._return_machine(at)

    def _overrun_stage(self, stage: str, at: datetime) -> None:
        """It is told to stop; one that does not even do that is over without its word."""
        if self.cancelled_by is not None:
            self._end_stage(stage, "skipped", "the stage did not stop after it was cancelled", at)
        elif f"host_plugins:{stage}" not in self.overrun_phases:
            reason = f"the {stage} stage took more than {self.budgets.host_plugins_s} s"
            self._spend("host_plugins", stage, reason, at)
        else:
            self._end_stage(stage, "failed", f"it took more than {self.budgets.host_plugins_s} s, and did not stop", at)

    def _spend(self, phase: Phase, stage: str | None, reason: str, at: datetime) -> None:
        self._happen(events.BudgetSpent, at, phase=phase, stage=stage, reason=reason)

    def _lose_guest(
        self, reason: str, at: datetime, outcome: AttemptOutcome, *, ended_by: str | None = None, is_final: bool = False
    ) -> None:
        if not self.is_guest_due:
            return
        if is_final or not self._may_retry():
            self._end_guest("failed", reason, at, ended_by=ended_by)
        else:
            self._retry(reason, at, outcome)

    def _is_running(self, stage: str, attempt: int) -> bool:
        return self.stages.get(stage) == "running" and attempt == self.attempt_of(stage)

    def _may_retry(self) -> bool:
        return len(self.lost_attempts) + 1 < ATTEMPTS_MAX and self.cancelled_by is None

    def _retry(self, reason: str, at: datetime, outcome: AttemptOutcome, errors: tuple[RunError, ...] = ()) -> None:
        known = [error.model_dump(mode="json") for error in errors]
        self._happen(events.AttemptFailed, at, reason=reason, outcome=outcome, errors=known)
        self._return_machine(at)
        self._happen(events.Queued, at, waiting_for=f"another attempt: {reason}")

    def _end_guest(self, outcome: StageOutcome, reason: str, at: datetime, *, ended_by: str | None = None) -> None:
        if self.is_guest_due:
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
