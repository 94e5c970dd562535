"""What every event of a machine does: it moves the state along the table, then keeps its details."""

from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from services.machines.domain.record import Record


class Event(Aggregate.Event):
    """Something happened to the machine."""

    TOPIC: ClassVar[str] = "machine:event"

    def apply(self, aggregate: Any) -> None:
        """The state moves along the table; then the event's own details are kept."""
        aggregate.move(type(self).__name__, self.timestamp)
        self.keep(aggregate)

    def keep(self, record: Record) -> None:
        """What the event adds to the machine's record."""
