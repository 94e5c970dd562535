"""Aggregates as they were last seen: those at hand are not read again, of those with long histories only what is new.

A machine lives for years and is asked about at every step of every task; from its first event each time, a step would
cost more with every lease. What is kept is only believed while the store still holds the very event that it ends with:
a database restored from an older backup has another history. For those at hand the unit that they are used in is
refused otherwise.
"""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from uuid import UUID

KEPT_MAX = 1_000
EVENTS_MIN = 50  # a shorter history is applied again faster than its outcome is copied


@dataclass(frozen=True)
class Seen:
    """An aggregate after its event of that version, with the words of that event as they are stored."""

    version: int
    topic: str
    state: bytes
    aggregate: Any


class AtHand:
    """Aggregates as this process's last units left them. Each is handed out to one unit at a time, not copied."""

    def __init__(self) -> None:
        self._seen: OrderedDict[UUID, Seen] = OrderedDict()

    def take(self, stream: UUID) -> Seen | None:
        """The aggregate is the caller's alone."""
        return self._seen.pop(stream, None)

    def put(self, stream: UUID, seen: Seen) -> None:
        """Nobody changes the aggregate any more until it is taken. Of two, the one that has seen more is kept."""
        known = self._seen.get(stream)
        if known is None or known.version < seen.version:
            self._seen[stream] = seen
        self._seen.move_to_end(stream)
        if len(self._seen) > KEPT_MAX:
            self._seen.popitem(last=False)


class Recent:
    """The aggregates that were asked for last."""

    def __init__(self) -> None:
        self._seen: OrderedDict[UUID, Seen] = OrderedDict()

    def get(self, stream: UUID) -> Seen | None:
        """What is known of the stream, with an aggregate of the caller's own."""
        seen = self._seen.get(stream)
        if seen is None:
            return None
        self._seen.move_to_end(stream)
        return Seen(seen.version, seen.topic, seen.state, copy.deepcopy(seen.aggregate))

    def keep(self, stream: UUID, version: int, topic: str, state: bytes, aggregate: Any) -> None:
        """The aggregate is known as it is now, if its history is long."""
        if version < EVENTS_MIN:
            return
        self._seen[stream] = Seen(version, topic, state, copy.deepcopy(aggregate))
        self._seen.move_to_end(stream)
        if len(self._seen) > KEPT_MAX:
            self._seen.popitem(last=False)

    def forget(self, stream: UUID) -> None:
        """Nothing is known of the stream."""
        self._seen.pop(stream, None)
