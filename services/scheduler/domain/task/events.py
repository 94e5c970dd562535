"""What happens to a task, and what each event adds to its record. Every version that was ever stored stays readable."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from eventsourcing.domain import Aggregate

from contracts.planning import Plan
from contracts.plugins import RunError
from contracts.scheduler import GuestAssignment

if TYPE_CHECKING:
    from services.scheduler.domain.task.aggregate import Task

Outcome = Literal["completed", "failed", "timed_out", "cancelled"]
StageOutcome = Literal["completed", "failed", "skipped"]


class Event(Aggregate.Event):
    """Something happened to the task."""

    TOPIC: ClassVar[str] = "task:event"

    def apply(self, aggregate: "Task") -> None:
        """The state moves along the table; then the event's own details are kept."""
        aggregate._move(type(self).__name__, self.timestamp)  # noqa: SLF001 - the event is part of the aggregate
        self.keep(aggregate)

    def keep(self, aggregate: "Task") -> None:
        """What the event adds to the task's record."""


class Submitted(Event, Aggregate.Created):
    """The task exists."""

    TOPIC: ClassVar[str] = "task:submitted"
    submission: dict[str, Any]

    def apply(self, aggregate: "Task") -> None:
        """Nothing moves: this is the first state."""
        aggregate.state_since = self.timestamp


class Planned(Event):
    """What will run is frozen."""

    TOPIC: ClassVar[str] = "task:planned"
    plan: dict[str, Any]

    def keep(self, aggregate: "Task") -> None:
        """Keep the plan."""
        aggregate.plan = Plan.model_validate(self.plan)
        aggregate.stages = {stage.name: "pending" for stage in aggregate.plan.stages}


class Refused(Event):
    """No known machine could ever run it, or what it asks does not exist."""

    TOPIC: ClassVar[str] = "task:refused"
    reason: str

    def keep(self, aggregate: "Task") -> None:
        """Keep why."""
        aggregate.why = aggregate.outcome_reason = self.reason


class Queued(Event):
    """It waits for a machine."""

    TOPIC: ClassVar[str] = "task:queued"
    waiting_for: str

    def keep(self, aggregate: "Task") -> None:
        """Keep what for."""
        aggregate.why = f"waiting for {self.waiting_for}"
        aggregate.stages["guest"] = "pending"
        aggregate.machine_id = None


class Matched(Event):
    """A machine was chosen."""

    TOPIC: ClassVar[str] = "task:matched"
    machine_id: str
    host: str
    operation_id: str

    def keep(self, aggregate: "Task") -> None:
        """Keep which."""
        aggregate.machine_id = self.machine_id
        aggregate.machine_host = self.host
        aggregate.operation_id = self.operation_id
        aggregate.matches += 1
        aggregate.why = f"machine {self.machine_id} is being prepared"


class MatchRefused(Event):
    """The chosen machine was not to be had."""

    TOPIC: ClassVar[str] = "task:match-refused"
    reason: str

    def keep(self, aggregate: "Task") -> None:
        """Back to waiting."""
        aggregate.why = f"waiting for another machine: {self.reason}"
        aggregate.machine_id = None


class MachineGranted(Event):
    """The machine is the task's."""

    TOPIC: ClassVar[str] = "task:machine-granted"
    guest: dict[str, Any]

    def keep(self, aggregate: "Task") -> None:
        """Keep the lease; a new attempt begins."""
        aggregate.guest = GuestAssignment.model_validate(self.guest)
        aggregate.attempts += 1
        aggregate.ran_on = aggregate.guest
        aggregate.machine = "leased"
        aggregate.observed_from = self.timestamp
        aggregate.why = f"running on machine {aggregate.guest.lease.machine_id}"


class StageRequested(Event):
    """The stage is to run."""

    TOPIC: ClassVar[str] = "task:stage-requested"
    stage: str
    attempt: int

    def keep(self, aggregate: "Task") -> None:
        """Keep that it runs."""
        aggregate.stages[self.stage] = "running"
        aggregate.stage_since[self.stage] = self.timestamp


class ObservationEnded(Event):
    """Watching is over."""

    TOPIC: ClassVar[str] = "task:observation-ended"
    ended_by: str

    def keep(self, aggregate: "Task") -> None:
        """Keep the rule that fired."""
        aggregate.ended_by = self.ended_by
        aggregate.why = "evidence is being collected"


class StageEnded(Event):
    """The stage ran, or could not."""

    TOPIC: ClassVar[str] = "task:stage-ended"
    stage: str
    attempt: int
    outcome: StageOutcome
    reason: str
    result_ids: list[str]
    errors: list[dict[str, Any]]
    ended_by: str | None

    def keep(self, aggregate: "Task") -> None:
        """Keep its results and errors."""
        aggregate.stages[self.stage] = self.outcome
        aggregate.stage_since[self.stage] = self.timestamp
        aggregate.result_ids.extend(self.result_ids)
        aggregate.errors.extend(RunError.model_validate(error) for error in self.errors)
        aggregate.ended_by = self.ended_by or aggregate.ended_by
        if self.outcome in ("failed", "skipped"):
            aggregate.errors.append(
                RunError(stage=self.stage, outcome=self.outcome, reason=self.reason or "no reason given")
            )


class AttemptFailed(Event):
    """The attempt ended without its evidence."""

    TOPIC: ClassVar[str] = "task:attempt-failed"
    reason: str

    def keep(self, aggregate: "Task") -> None:
        """Keep why."""
        aggregate.attempt_reasons.append(self.reason)


class MachineReturned(Event):
    """The task is done with the machine, or lost it."""

    TOPIC: ClassVar[str] = "task:machine-returned"
    machine_id: str
    host: str
    lease_id: str
    epoch: int

    def keep(self, aggregate: "Task") -> None:
        """The machine is not ours, and not clean yet."""
        aggregate.guest = None
        left_at, condition = aggregate.left.get(self.machine_id, (-1, ""))
        if left_at < self.epoch:
            aggregate.machine = "reverting"
            aggregate.reverting.add(self.machine_id)
        elif not aggregate.reverting:
            aggregate.machine = "quarantined" if condition == "quarantined" else "clean"


class MachineLeft(Event):
    """The machine is verified clean, or out of the pool."""

    TOPIC: ClassVar[str] = "task:machine-left"
    class_version: ClassVar[int] = 2
    machine_id: str
    condition: str
    epoch: int

    def keep(self, aggregate: "Task") -> None:
        """Keep which, and since which epoch: word of an earlier lease on it may still be under way."""
        aggregate.left[self.machine_id] = (self.epoch, self.condition)
        aggregate.reverting.discard(self.machine_id)
        if not aggregate.reverting and aggregate.guest is None:
            aggregate.machine = "quarantined" if self.condition == "quarantined" else "clean"

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not say at which epoch."""
        state["epoch"] = 0


class CancelRequested(Event):
    """Somebody wants it to end."""

    TOPIC: ClassVar[str] = "task:cancel-requested"
    by: str
    reason: str

    def keep(self, aggregate: "Task") -> None:
        """Keep who."""
        aggregate.cancelled_by = self.by
        aggregate.why = f"being cancelled by {self.by}"


class ReportRequested(Event):
    """Every stage has ended."""

    TOPIC: ClassVar[str] = "task:report-requested"
    outcome: Outcome
    reason: str

    def keep(self, aggregate: "Task") -> None:
        """Keep how it will end."""
        aggregate.outcome = self.outcome
        aggregate.outcome_reason = self.reason
        aggregate.why = "the report is being sealed and the machine cleaned"


class ReportSealed(Event):
    """The report can be read."""

    TOPIC: ClassVar[str] = "task:report-sealed"
    class_version: ClassVar[int] = 2
    verdict: str
    score: int
    missing_results: int

    def keep(self, aggregate: "Task") -> None:
        """Keep what it says; a report without all its results is not a completed task."""
        if self.missing_results and aggregate.outcome == "completed":
            aggregate.outcome = "failed"
            aggregate.outcome_reason = f"{self.missing_results} results were lost; the report names them"
        aggregate.report_ready_at = self.timestamp
        aggregate.verdict = self.verdict
        aggregate.score = self.score
        aggregate.why = "the machine is being cleaned"

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not count lost results."""
        state["missing_results"] = 0


class Completed(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:completed"


class Failed(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:failed"


class TimedOut(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:timed-out"


class Cancelled(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:cancelled"
