"""Tells who waits for facts about a task that one was committed in this process."""

import asyncio
from collections.abc import Collection

from services.chassis.store import Store
from services.chassis.unit import Unit
from services.plugins import rows


class TaskNews:
    """Listens to the store's commits."""

    def __init__(self, store: Store) -> None:
        self._waiting: dict[str, tuple[asyncio.Event, frozenset[str]]] = {}
        store.on_commit(self._on_commit)

    def of(self, task_id: str, kinds: Collection[str]) -> asyncio.Event:
        """Set whenever a fact of those types was said of the task; whoever waits clears it. `forget` it afterwards."""
        event = asyncio.Event()
        self._waiting[task_id] = (event, frozenset(kinds))
        return event

    def forget(self, task_id: str) -> None:
        """Nobody waits for news of the task any more."""
        self._waiting.pop(task_id, None)

    def _on_commit(self, unit: Unit) -> None:
        for sql, arguments in unit.statements:
            if sql != rows.KEEP_SAID or arguments[rows.KEEP_SAID_TASK] not in self._waiting:
                continue
            event, kinds = self._waiting[arguments[rows.KEEP_SAID_TASK]]
            if arguments[rows.KEEP_SAID_TYPE] in kinds:
                event.set()
