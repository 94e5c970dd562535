"""Finds the message that kills the process that handles it, among those that were being handled beside it.

The broker only counts deliveries: when a process dies, every message that it held has been delivered once more, and at
the delivery limit all of them would be dead. So a message that keeps coming back is handled with nothing beside it,
and each such try is written down first: what is found written down several times is what the process died of.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from services.chassis.errors import PermanentError
from services.chassis.patience import until_stored
from services.chassis.store import Store

DELIVERIES_TRUSTED = 3  # redelivered more often than this, a message is handled alone
DEATHS_MAX = 3  # with the trusted ones far below the broker's delivery limit of 20
SUSPECTS_DAYS = 14

log = structlog.get_logger()


class Condemned(PermanentError):
    """the process died each time it handled this message, with no other beside it"""


class Suspects:
    """What has come back too often, in the service's own store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gate = Gate()

    @contextlib.asynccontextmanager
    async def attending(self, message_id: str, deliveries: int) -> AsyncIterator[None]:
        """The message may be handled inside the block, alone if it was delivered too often. Raises Condemned."""
        if deliveries <= DELIVERIES_TRUSTED:
            async with self._gate.shared():
                yield
            return
        async with self._gate.alone():
            deaths = await until_stored(lambda: self._write_down(message_id))
            log.warning("message_is_suspect", suspect=message_id, deliveries=deliveries, deaths=deaths)
            try:
                if deaths >= DEATHS_MAX:
                    raise Condemned
                yield
            finally:
                await until_stored(lambda: self._acquit(message_id))

    async def _write_down(self, message_id: str) -> int:
        """How often the process has died of it already."""
        row = await self._store.fetchrow(
            "INSERT INTO suspects (id, tries) VALUES ($1, 1) "
            "ON CONFLICT (id) DO UPDATE SET tries = suspects.tries + 1, seen_at = now() RETURNING tries",
            message_id,
        )
        return int(row["tries"]) - 1 if row else 0

    async def _acquit(self, message_id: str) -> None:
        """The process lives: whatever came of it, this message does not kill."""
        await self._store.fetch("DELETE FROM suspects WHERE id = $1", message_id)


class Gate:
    """Lets many through together, or one alone."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._empty = asyncio.Event()
        self._empty.set()
        self._inside = 0

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Others may be inside."""
        async with self._door:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Whoever was inside has left, and nobody comes in."""
        async with self._door:
            await self._empty.wait()
            yield
