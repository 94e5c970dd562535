"""Aggregates with long histories, as they were last seen: only what happened since is read again.

A machine lives for years and is asked about at every step of every task; from its first event each time, a step would
cost more with every lease. What is kept is only believed while the store still holds the very event that it ends with:
a database restored from an older backup has another history.
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
