"""Rows that can be rebuilt: events are applied in commit order, each batch in one transaction with its checkpoint.

Events are read by (transaction id, position) below the oldest running transaction: a serial number alone would skip
rows whose transaction commits late.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from services.chassis.crash_points import Point, reached
from services.chassis.store import UNAVAILABLE, Connection, Store, StoreUnavailable

BATCH_MAX = 500
IDLE_POLL_S = 2.0
HORIZON_RETRY_S = 0.005
GATHER_S = 0.01  # commits come in clusters: a list that is this late is made in fewer transactions

log = structlog.get_logger()


@dataclass(frozen=True)
class Recorded:
    """One event as it stands in the store."""

    stream: UUID
    version: int
    event: Any


@dataclass(frozen=True)
class Projection:
    """`apply` writes rows for one event; `tables` are emptied before a rebuild; `on_advance` follows each batch."""

    name: str
    tables: tuple[str, ...]
    apply: Callable[[Recorded, Connection], Awaitable[None]]
    on_advance: Callable[[list[Recorded]], None] | None = None


class Projector:
    """Keeps one projection up with the events. Woken after each commit of this process, with a slow poll behind."""

    def __init__(self, store: Store, projection: Projection) -> None:
        self._store = store
        self._projection = projection
        self._wake = asyncio.Event()
        store.on_commit(lambda unit: self._wake.set() if unit.events else None)

    async def run(self) -> None:
        """Follows until cancelled, through any number of database failures."""
        while True:
            try:
                self._wake.clear()
                batch, is_behind = await self.advance()
            except (StoreUnavailable, *UNAVAILABLE) as error:
                log.warning("projection_was_interrupted", projection=self._projection.name, reason=repr(error))
                await asyncio.sleep(0.5)
                continue
            if not batch and not is_behind:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(
                        IDLE_POLL_S
                    ):  # wait_for may swallow a cancellation that comes with the event
                        await self._wake.wait()
            await asyncio.sleep(GATHER_S)

    async def advance(self) -> tuple[int, bool]:
        """One batch is applied: how many events, and whether more exist that may not be read yet."""
        async with self._store.transaction() as connection:
            # Rows and checkpoint are lost together, if at all, and then made again from the events.
            await connection.execute("SET LOCAL synchronous_commit TO off")
            mark = await connection.fetchrow(
                "INSERT INTO checkpoints VALUES ($1, '0', 0) ON CONFLICT (projection) DO UPDATE "
                "SET projection = excluded.projection RETURNING txid::text, position",
                self._projection.name,
            )
            if mark is None:
                raise StoreUnavailable("no checkpoint")
            rows = await connection.fetch(
                "SELECT stream, version, topic, state, txid::text AS txid, position, "
                "txid < pg_snapshot_xmin(pg_current_snapshot()) AS is_settled FROM events "
                "WHERE (txid, position) > ($1::text::xid8, $2::bigint) ORDER BY txid, position LIMIT $3",
                mark["txid"],
                mark["position"],
                BATCH_MAX,
            )
            settled = [row for row in rows if row["is_settled"]]
            batch = [
                Recorded(
                    row["stream"],
                    row["version"],
                    self._store.decode(row["stream"], row["version"], row["topic"], row["state"]),
                )
                for row in settled
            ]
            for recorded in batch:
                await self._projection.apply(recorded, connection)
            if settled:
                await connection.execute(
                    "UPDATE checkpoints SET txid = $2::text::xid8, position = $3 WHERE projection = $1",
                    self._projection.name,
                    settled[-1]["txid"],
                    settled[-1]["position"],
                )
                reached(Point.PROJECTION_BEFORE)
        if settled:
            reached(Point.PROJECTION_AFTER)
        if batch and self._projection.on_advance is not None:
            self._projection.on_advance(batch)
        return len(batch), len(rows) > len(settled)

    async def rebuild(self) -> int:
        """The tables are emptied and filled again by replay; how many events it took."""
        async with self._store.transaction() as connection:
            for table in self._projection.tables:
                await connection.execute(f"TRUNCATE {table}")
            await connection.execute("DELETE FROM checkpoints WHERE projection = $1", self._projection.name)
        total = 0
        while True:
            count, is_behind = await self.advance()
            total += count
            if count == 0 and not is_behind:
                return total
            if count == 0:
                await asyncio.sleep(HORIZON_RETRY_S)
