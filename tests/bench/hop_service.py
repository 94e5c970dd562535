"""The smallest service there is, on the real chassis: it hears one fact, records one event, and states another.

    MALBOX_CONFIG=<toml> python -m tests.bench.hop_service

Its messages are real ones (a service refuses what is not in the catalogue): a cancellation is heard, a queueing stated.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from contracts.envelope import Message
from contracts.ids import new, uuid_of
from contracts.intake import TaskCancellationRequested
from contracts.scheduler import TaskQueued
from services.chassis.run import Runtime, Service, run
from services.chassis.settings import ServiceSettings, load_settings
from services.chassis.store import Store
from services.chassis.unit import Unit

NAME = "hop"


class Hop(Aggregate):
    """One message that came by."""

    TOPIC: ClassVar[str] = "hop"

    class Event(Aggregate.Event):
        """Something happened to it."""

        TOPIC: ClassVar[str] = "hop:event"

    class Heard(Event, Aggregate.Created):
        """It came."""

        TOPIC: ClassVar[str] = "hop:heard"

    @classmethod
    def hear(cls, task_id: str, at: datetime) -> "Hop":
        """The message's aggregate exists."""
        return cls._create(cls.Heard, id=uuid_of(task_id), timestamp=at)


async def on_cancellation_requested(fact: TaskCancellationRequested, unit: Unit, _store: Store) -> None:
    """One event and one message, in one commit with the inbox entry."""
    unit.save(Hop.hear(fact.task_id, unit.at))


def announce(_event: Any, hop: Hop) -> Iterable[Message]:
    """The event is stated."""
    yield TaskQueued(task_id=new("tsk", hop.id), waiting_for="nothing")


async def compose(_runtime: Runtime) -> Service:
    """One handler and nothing else."""
    return Service(handlers={TaskCancellationRequested: on_cancellation_requested})


if __name__ == "__main__":
    run(NAME, load_settings(ServiceSettings), compose, announce=announce)
