"""The stages of a task: asked for, begun, watched, ended, lost, over their budgets."""

from typing import Any, ClassVar, Literal

from contracts.plugins import RunError
from contracts.scheduler import AttemptOutcome, LostAttempt
from services.scheduler.domain.task.events.base import GUEST_PHASES, Event
from services.scheduler.domain.task.record import Record

StageOutcome = Literal["completed", "failed", "skipped"]


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
    class_version: ClassVar[int] = 2
    reason: str
    outcome: AttemptOutcome
    errors: list[dict[str, Any]]

    def keep(self, task: Record) -> None:
        """Keep when it was, how it ended and why."""
        lost = LostAttempt(
            number=len(task.lost_attempts) + 1,
            machine_id=task.machine_id,
            began_at=task.asked_for_at,
            ended_at=self.timestamp,
            outcome=self.outcome,
            reason=self.reason,
            errors=tuple(RunError.model_validate(error) for error in self.errors),
        )
        task.lost_attempts.append(lost)
        task.leave(self.timestamp, *GUEST_PHASES)

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 said only why."""
        state["outcome"], state["errors"] = "failed", []


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
