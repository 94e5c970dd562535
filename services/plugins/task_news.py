"""Tells who waits for facts about a task that one was committed in this process."""

import asyncio
from collections import defaultdict

from services.chassis.store import Store
from services.chassis.unit import Unit
from services.plugins import rows


class TaskNews:
    """Listens to the store's commits."""

    def __init__(self, store: Store) -> None:
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        store.on_commit(self._on_commit)

    def of(self, task_id: str) -> asyncio.Event:
        """Set whenever something was said of the task; whoever waits clears it. `forget` it afterwards."""
        return self._events[task_id]

    def forget(self, task_id: str) -> None:
        """Nobody waits for news of the task any more."""
        self._events.pop(task_id, None)

    def _on_commit(self, unit: Unit) -> None:
        for sql, arguments in unit.statements:
            if sql == rows.KEEP_SAID and arguments[1] in self._events:
                self._events[arguments[1]].set()
