"""What is planned of a task, and how it waits."""

from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from contracts.planning import Budgets, Plan
from services.scheduler.domain.task.events.base import GUEST_PHASES, Event
from services.scheduler.domain.task.record import Record


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


class Stranded(Event):
    """It waited, and now no machine that is known could ever run it."""

    TOPIC: ClassVar[str] = "task:stranded"
    reason: str

    def keep(self, task: Record) -> None:
        """Keep why."""
        task.is_stranded = True
        task.why = self.reason
