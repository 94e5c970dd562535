"""What every event of a task does: it moves the state along the table, then keeps its details."""

from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from contracts.planning import Phase
from services.scheduler.domain.task.record import Record

GUEST_PHASES: tuple[Phase, ...] = ("boot", "observation", "collection")


class Event(Aggregate.Event):
    """Something happened to the task."""

    TOPIC: ClassVar[str] = "task:event"

    def apply(self, aggregate: Any) -> None:
        """The state moves along the table; then the event's own details are kept."""
        aggregate.move(type(self).__name__, self.timestamp)
        self.keep(aggregate)

    def keep(self, task: Record) -> None:
        """What the event adds to the task's record."""
