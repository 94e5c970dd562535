"""Tells a running stage that it was cancelled: at once in this process, within a poll in another."""

import asyncio
import contextlib
from collections import defaultdict

from services.chassis.store import Store, StoreUnavailable
from services.chassis.unit import Unit
from services.plugins import rows

POLL_S = 2.0


class Cancellations:
    """Listens to the store's commits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._events: defaultdict[rows.StageKey, asyncio.Event] = defaultdict(asyncio.Event)
        store.on_commit(self._on_commit)

    async def wait(self, key: rows.StageKey) -> str:
        """Returns the reason, once the stage was cancelled."""
        event = self._events[key]
        try:
            while True:
                with contextlib.suppress(StoreUnavailable):
                    row = await rows.load_stage(self._store, key)
                    if row is not None and row.cancel_reason is not None:
                        return row.cancel_reason
                event.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):  # wait_for may swallow a cancellation that comes with the event
                        await event.wait()
        finally:
            self._events.pop(key, None)

    def _on_commit(self, unit: Unit) -> None:
        for sql, arguments in unit.statements:
            if sql == rows.CANCEL and (key := rows.StageKey(*arguments[:3])) in self._events:
                self._events[key].set()
