"""What happens to a task, and what each event adds to its record. Every version that was ever stored stays readable."""

from typing import Any, ClassVar, Literal

from eventsourcing.domain import Aggregate

from contracts.planning import Budgets, Phase, Plan
from contracts.plugins import RunError
from contracts.scheduler import GuestAssignment
from services.scheduler.domain.task.record import LostAttempt, Outcome, Record, Returned

GUEST_PHASES: tuple[Phase, ...] = ("boot", "observation", "collection")
StageOutcome = Literal["completed", "failed", "skipped"]


class Event(Aggregate.Event):
    """Something happened to the task."""

    TOPIC: ClassVar[str] = "task:event"

    def apply(self, aggregate: Any) -> None:
        """The state moves along the table; then the event's own details are kept."""
        aggregate.move(type(self).__name__, self.timestamp)
        self.keep(aggregate)

    def keep(self, task: Record) -> None:
        """What the event adds to the task's record."""


class Submitted(Event, Aggregate.Created):
    """The task exists."""

    TOPIC: ClassVar[str] = "task:submitted"
    submission: dict[str, Any]

    def apply(self, aggregate: Any) -> None:
        """Nothing moves: this is the first state."""
        aggregate.state_since = self.timestamp


class Planned(Event):
    """What will run is frozen."""

    TOPIC: ClassVar[str] = "task:planned"
    class_version: ClassVar[int] = 2
    plan: dict[str, Any]
    budgets: dict[str, Any]

    def keep(self, task: Record) -> None:
        """Keep the plan, and how long each phase may take."""
        task.plan = Plan.model_validate(self.plan)
        task.budgets = Budgets.model_validate({"observation_s": task.request.timeout_s, **self.budgets})
        task.stages = {stage.name: "pending" for stage in task.plan.stages}

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 had no budgets of its own: the usual ones."""
        state["budgets"] = {}


class Refused(Event):
    """No known machine could ever run it, or what it asks does not exist."""

    TOPIC: ClassVar[str] = "task:refused"
    reason: str

    def keep(self, task: Record) -> None:
        """Keep why."""
        task.why = task.outcome_reason = self.reason


class Queued(Event):
    """It waits for a machine."""

    TOPIC: ClassVar[str] = "task:queued"
    waiting_for: str

    def keep(self, task: Record) -> None:
        """Keep what for."""
        task.why = f"waiting for {self.waiting_for}"
        task.stages["guest"] = "pending"
        task.machine_id = task.ended_by = None
        task.leave(self.timestamp, *GUEST_PHASES)
        task.enter("queue", self.timestamp)


class Matched(Event):
    """A machine was chosen."""

    TOPIC: ClassVar[str] = "task:matched"
    machine_id: str
    host: str
    operation_id: str

    def keep(self, task: Record) -> None:
        """Keep which."""
        task.machine_id = self.machine_id
        task.machine_host = self.host
        task.operation_id = self.operation_id
        task.matches += 1
        task.why = f"machine {self.machine_id} is being prepared"
        task.leave(self.timestamp, "queue")
        task.enter("boot", self.timestamp)


class MatchRefused(Event):
    """The chosen machine was not to be had."""

    TOPIC: ClassVar[str] = "task:match-refused"
    reason: str

    def keep(self, task: Record) -> None:
        """Back to waiting."""
        task.why = f"waiting for another machine: {self.reason}"
        task.machine_id = None
        task.leave(self.timestamp, "boot")
        task.enter("queue", self.timestamp)


class MachineGranted(Event):
    """The machine is the task's."""

    TOPIC: ClassVar[str] = "task:machine-granted"
    guest: dict[str, Any]

    def keep(self, task: Record) -> None:
        """Keep the lease; a new attempt begins."""
        task.guest = GuestAssignment.model_validate(self.guest)
        task.attempts += 1
        task.ran_on = task.guest
        task.machine = "leased"
        task.observed_from = task.granted_at = self.timestamp
        task.why = f"running on machine {task.guest.lease.machine_id}"


class StageRequested(Event):
    """The stage is to run."""

    TOPIC: ClassVar[str] = "task:stage-requested"
    stage: str
    attempt: int

    def keep(self, task: Record) -> None:
        """Keep that it runs."""
        task.stages[self.stage] = "running"
        task.stage_since[self.stage] = self.timestamp


class StageBegan(Event):
    """The stage's first run is about to start; until then it waited for its turn."""

    TOPIC: ClassVar[str] = "task:stage-began"
    stage: str
    attempt: int

    def keep(self, task: Record) -> None:
        """Keep since when; a host stage spends its budget from now on."""
        task.stage_began[self.stage] = self.timestamp
        if self.stage != "guest":
            task.enter("host_plugins", self.timestamp)


class ObservationStarted(Event):
    """The sample runs, and is watched."""

    TOPIC: ClassVar[str] = "task:observation-started"
    attempt: int

    def keep(self, task: Record) -> None:
        """Getting there was the boot; the user's timeout runs from now on."""
        task.observed_from = self.timestamp
        task.leave(self.timestamp, "boot")
        task.enter("observation", self.timestamp)


class ObservationEnded(Event):
    """Watching is over."""

    TOPIC: ClassVar[str] = "task:observation-ended"
    ended_by: str

    def keep(self, task: Record) -> None:
        """Keep the rule that fired."""
        task.ended_by = self.ended_by
        task.leave(self.timestamp, "boot", "observation")
        task.enter("collection", self.timestamp)
        task.why = "evidence is being collected"


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

    def keep(self, task: Record) -> None:
        """Keep its results and errors."""
        if self.stage == "guest":
            task.leave(self.timestamp, "queue", *GUEST_PHASES)
        else:
            task.leave(self.timestamp, "host_plugins")
        task.stages[self.stage] = self.outcome
        task.stage_since[self.stage] = self.timestamp
        task.result_ids.extend(self.result_ids)
        task.errors.extend(RunError.model_validate(error) for error in self.errors)
        if self.stage == "guest" or task.cancelled_by is not None:  # a host stage that was told to stop ends no watch
            task.ended_by = self.ended_by or task.ended_by
        if self.outcome in ("failed", "skipped"):
            task.errors.append(
                RunError(stage=self.stage, outcome=self.outcome, reason=self.reason or "no reason given")
            )


class AttemptFailed(Event):
    """The attempt ended without its evidence."""

    TOPIC: ClassVar[str] = "task:attempt-failed"
    reason: str

    def keep(self, task: Record) -> None:
        """Keep why."""
        number = len(task.lost_attempts) + 1
        task.lost_attempts.append(LostAttempt(number, task.machine_id, self.timestamp, self.reason))
        task.leave(self.timestamp, *GUEST_PHASES)


class MachineReturned(Event):
    """The task is done with the machine, or lost it."""

    TOPIC: ClassVar[str] = "task:machine-returned"
    machine_id: str
    host: str
    lease_id: str
    epoch: int

    def keep(self, task: Record) -> None:
        """The machine is not ours, and not clean yet; no lease up to that epoch counts any more.

        The guest goes with it, unless it is on another lease.
        """
        has_other = task.guest is not None and task.guest.lease.lease_id != self.lease_id
        if not has_other:
            task.guest = None
            task.leave(self.timestamp, *GUEST_PHASES)
        task.over_until[self.machine_id] = max(self.epoch, task.over_until.get(self.machine_id, 0))
        left_at, condition = task.left.get(self.machine_id, (-1, ""))
        if left_at < self.epoch:
            task.machine = "leased" if has_other else "reverting"
            task.reverting.add(self.machine_id)
            task.returned[self.machine_id] = Returned(self.host, self.lease_id, self.epoch, self.timestamp)
            task.enter("cleanup", self.timestamp)
        elif not task.reverting and not has_other:
            task.machine = "quarantined" if condition == "quarantined" else "clean"


class MachineLeft(Event):
    """The machine is verified clean, or out of the pool."""

    TOPIC: ClassVar[str] = "task:machine-left"
    class_version: ClassVar[int] = 2
    machine_id: str
    condition: str
    epoch: int

    def keep(self, task: Record) -> None:
        """Keep which, and since which epoch: word of an earlier lease on it may still be under way."""
        task.left[self.machine_id] = (self.epoch, self.condition)
        task.reverting.discard(self.machine_id)
        task.returned.pop(self.machine_id, None)
        if not task.reverting:
            task.leave(self.timestamp, "cleanup")
        if not task.reverting and task.guest is None:
            task.machine = "quarantined" if self.condition == "quarantined" else "clean"

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not say at which epoch."""
        state["epoch"] = 0


class CancelRequested(Event):
    """Somebody wants it to end."""

    TOPIC: ClassVar[str] = "task:cancel-requested"
    by: str
    reason: str

    def keep(self, task: Record) -> None:
        """Keep who."""
        task.cancelled_by = self.by
        task.cancelled_at = self.timestamp
        task.why = f"being cancelled by {self.by}"
        if task.outcome is not None:
            task.outcome, task.outcome_reason = "cancelled", f"cancelled by {self.by}"


class BudgetSpent(Event):
    """A phase took all the time that it may; what follows from that follows."""

    TOPIC: ClassVar[str] = "task:budget-spent"
    phase: str
    stage: str | None
    reason: str

    def keep(self, task: Record) -> None:
        """Keep which, and of which stage."""
        task.overrun_phases.append(self.phase if self.stage is None else f"{self.phase}:{self.stage}")
        task.why = self.reason


class Stranded(Event):
    """It waited, and now no machine that is known could ever run it."""

    TOPIC: ClassVar[str] = "task:stranded"
    reason: str

    def keep(self, task: Record) -> None:
        """Keep why."""
        task.is_stranded = True
        task.why = self.reason


class ReportRequested(Event):
    """Every stage has ended."""

    TOPIC: ClassVar[str] = "task:report-requested"
    outcome: Outcome
    reason: str

    def keep(self, task: Record) -> None:
        """Keep how it will end."""
        task.outcome = self.outcome
        task.outcome_reason = self.reason
        task.why = "the report is being sealed and the machine cleaned"


class ReportSealed(Event):
    """The report can be read."""

    TOPIC: ClassVar[str] = "task:report-sealed"
    class_version: ClassVar[int] = 2
    verdict: str
    score: int
    missing_results: int

    def keep(self, task: Record) -> None:
        """Keep what it says; a report without all its results is not a completed task."""
        if self.missing_results and task.outcome == "completed":
            task.outcome = "failed"
            task.outcome_reason = f"{self.missing_results} results were lost; the report names them"
        task.report_ready_at = self.timestamp
        if not task.verdict_revision:  # a later word about the verdict may have come before the first
            task.verdict = self.verdict
            task.score = self.score
        task.why = "the machine is being cleaned"

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not count lost results."""
        state["missing_results"] = 0


class VerdictChanged(Event):
    """What was found inside the sample was judged after its report was sealed."""

    TOPIC: ClassVar[str] = "task:verdict-changed"
    verdict: str
    score: int
    revision: int

    def keep(self, task: Record) -> None:
        """Keep the verdict of now."""
        task.verdict = self.verdict
        task.score = self.score
        task.verdict_revision = self.revision


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


class Unserviceable(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:unserviceable"
