"""A unit of work: everything that one decision changes, committed together or not at all."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from eventsourcing.domain import Aggregate

from contracts.envelope import Command, Envelope, Message
from contracts.ids import derived
from services.chassis.recent import Seen

FACTS_EXCHANGE = "malbox.facts"
COMMANDS_EXCHANGE = "malbox.commands"

Announce = Callable[[Any, Any], Iterable[Message]]
"""(event, aggregate after it) -> the public messages that it is; pure."""


def message_id_of(stream: UUID, version: int, index: int) -> str:
    """The id of what an event announced, the `index`-th of its messages: the same whenever it is said again."""
    return derived("msg", str(stream), version, index)


@dataclass(frozen=True)
class Cause:
    """The message that led here: `message_id` goes into the inbox; correlation and trace travel on in what is said.

    `sequence` counts per subject: what its producer said later has a higher one, in whatever order it arrives.
    """

    message_id: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    sequence: int = 0


@dataclass(frozen=True)
class OutboxRow:
    """One message on its way out."""

    message_id: str
    exchange: str
    routing_key: str
    body: bytes


@dataclass(frozen=True)
class WorkRow:
    """One thing to be done later. The same kind and key is the same work.

    `due_at` is by the clock of the unit's `at`: how long from then on is what counts.
    """

    kind: str
    key: str
    payload: bytes
    due_at: datetime


@dataclass(frozen=True)
class WorkClaim:
    """The work item that this unit finishes: its id, and the attempt that fences out an older claimant."""

    work_id: int
    attempt: int


@dataclass
class Unit:
    """Collects changes. Nothing happens until the store commits it.

    `news` are for listeners in this process, who are told after the commit; nothing of them is stored. `loaded` are the
    aggregates that it is decided on, as they were loaded; `from_memory` those that nobody asked the store for.
    """

    service: str
    at: datetime
    uuid: Callable[[], UUID]
    announce: Announce
    cause: Cause = Cause()
    events: list[Any] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    work: list[WorkRow] = field(default_factory=list)
    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    news: set[str] = field(default_factory=set)
    loaded: dict[UUID, Seen] = field(default_factory=dict)
    from_memory: set[UUID] = field(default_factory=set)
    finishes: WorkClaim | None = None
    holds: WorkClaim | None = None

    def save(self, aggregate: Aggregate) -> None:
        """The aggregate's new events are recorded, and what they announce is said."""
        for event in aggregate.collect_events():
            self.events.append(event)
            for index, message in enumerate(self.announce(event, aggregate)):
                message_id = message_id_of(event.originator_id, event.originator_version, index)
                self._say(message, message_id, event.originator_version)

    def leave_at_hand(self, aggregate: Aggregate) -> None:
        """The next unit finds the new aggregate in memory: it is the chassis's from the commit on."""
        self.loaded[aggregate.id] = Seen(0, "", b"", aggregate)

    def say(self, message: Message, *, message_id: str | None = None, sequence: int | None = None) -> None:
        """The message is sent after the commit, at least once. The same id is the same message to every receiver.

        `sequence` is the version of the aggregate that it speaks of, where it speaks of one.
        """
        self._say(message, message_id or f"msg_{self.uuid().hex}", sequence)

    def enqueue(self, kind: str, key: str, payload: dict[str, Any], *, due_at: datetime | None = None) -> None:
        """The work is done at or after `due_at`, by whichever process claims it."""
        self.work.append(WorkRow(kind, key, orjson.dumps(payload), due_at or self.at))

    def execute(self, sql: str, *arguments: Any) -> None:
        """One statement on the service's own tables: a write, or the call of a function; committed with the unit.

        Statements of one unit touch different rows, and none sees what another writes.
        """
        self.statements.append((sql, arguments))

    def finish(self, claim: WorkClaim) -> None:
        """The claimed work item is done with this commit; a claimant that lost it cannot commit."""
        self.finishes = claim

    def _say(self, message: Message, message_id: str, sequence: int | None) -> None:
        envelope = Envelope.wrap(
            message,
            message_id=message_id,
            source=self.service,
            at=self.at,
            correlation_id=getattr(message, "task_id", None) or self.cause.correlation_id,
            causation_id=self.cause.message_id,
            sequence=sequence,
            traceparent=self.cause.traceparent,
        )
        if isinstance(message, Command):
            exchange, routing_key = COMMANDS_EXCHANGE, message.receiver()
        else:
            exchange, routing_key = FACTS_EXCHANGE, message.routing_key()
        self.outbox.append(OutboxRow(message_id, exchange, routing_key, envelope.to_json()))
