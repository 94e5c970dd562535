"""Tells listeners of this process that something changed.

A listener that is too slow loses the oldest hint, no more: a hint only says that there is something to read.
"""

import asyncio
import contextlib
from collections.abc import Iterator

from services.chassis.unit import Unit

HINTS_MAX = 1000


class Live:
    """Hints are task ids."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[str]] = set()

    def on_commit(self, unit: Unit) -> None:
        """Every task that the unit touched is hinted at."""
        if unit.cause.correlation_id is not None and unit.cause.correlation_id.startswith("tsk_"):
            self.hint(unit.cause.correlation_id)
        for event in unit.events:
            self.hint(f"tsk_{event.originator_id.hex}")

    def hint(self, task_id: str) -> None:
        """Every listener is told."""
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(task_id)

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Queue[str]]:
        """A queue of hints for as long as the block lasts."""
        queue: asyncio.Queue[str] = asyncio.Queue(HINTS_MAX)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)
