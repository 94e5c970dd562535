"""Rows that can be rebuilt: events are applied in commit order, each batch in one transaction with its checkpoint.

Events are read by (transaction id, position) below the oldest running transaction: a serial number alone would skip
rows whose transaction commits late. What an event does to a row is a pure function, so a batch is two statements
however many events it has, and following and replaying are the same code.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import orjson
import structlog

from services.chassis.crash_points import Point, reached
from services.chassis.patience import until_woken
from services.chassis.store import UNAVAILABLE, Connection, Store, StoreUnavailable

BATCH_MAX = 500
IDLE_POLL_S = 2.0
GATHER_S = 0.1  # commits come in clusters: a list that is this late is made in fewer transactions

log = structlog.get_logger()
Row: TypeAlias = dict[str, Any]
"""Columns by name, as JSON has them; an instant that was read is text, one that is written may be a datetime."""


@dataclass(frozen=True)
class Recorded:
    """One event as it stands in the store."""

    stream: UUID
    version: int
    event: Any


@dataclass(frozen=True)
class Projection:
    """What is shown of each stream, and where it is wanted of each event.

    `table` has one row a stream, its key `stream`; `follow` says the row after an event, from the one before (None:
    there is none). `history` has one row an event, its key (`stream`, `version`); `entry` says it, or None for an event
    that is not shown. Both functions are pure and give every column. `on_advance` follows each batch.
    """

    name: str
    table: str
    follow: Callable[[Row | None, Recorded], Row | None]
    history: str | None = None
    entry: Callable[[Row, Recorded], Row] | None = None
    on_advance: Callable[[list[Recorded]], None] | None = None

    @property
    def keys(self) -> dict[str, str]:
        """The tables that the projection writes, and the columns that are the key of each."""
        return {self.table: "stream"} | ({} if self.history is None else {self.history: "stream, version"})


@dataclass(frozen=True, order=True)
class Position:
    """A place in the order of commits."""

    txid: int = 0
    position: int = 0


@dataclass(frozen=True)
class Batch:
    """Events that follow a position. `is_behind`: more exist, but a transaction that runs may yet come before them."""

    events: list[Recorded]
    end: Position
    is_behind: bool


async def read_batch(
    store: Store, connection: "Connection | asyncpg.Pool[asyncpg.Record]", start: Position, limit: int
) -> Batch:
    """The next events in commit order of which none can be preceded by one that is not committed yet."""
    rows = await connection.fetch(
        "SELECT stream, version, topic, state, txid::text::bigint AS txid, position, "
        "txid < pg_snapshot_xmin(pg_current_snapshot()) AS is_settled FROM events "
        "WHERE (txid, position) > ($1::text::xid8, $2::bigint) ORDER BY txid, position LIMIT $3",
        str(start.txid),
        start.position,
        limit,
    )
    settled = [row for row in rows if row["is_settled"]]
    events = [
        Recorded(row["stream"], row["version"], store.decode(row["stream"], row["version"], row["topic"], row["state"]))
        for row in settled
    ]
    end = Position(settled[-1]["txid"], settled[-1]["position"]) if settled else start
    return Batch(events, end, is_behind=len(rows) > len(settled))


async def apply(
    projection: Projection, events: Iterable[Recorded], connection: Connection, *, prefix: str = ""
) -> None:
    """The projection's tables, or those with the same names after the prefix, are what they are after the events."""
    listed = list(events)
    if not listed:
        return
    names = {table: prefix + table for table in projection.keys}
    before = await _rows_of(connection, names[projection.table], {recorded.stream for recorded in listed})
    after: dict[UUID, Row] = {}
    entries = []
    for recorded in listed:
        row = projection.follow(after.get(recorded.stream) or before.get(recorded.stream), recorded)
        if row is None:
            continue
        after[recorded.stream] = row
        if projection.entry is not None:
            entries.append(projection.entry(row, recorded))
    for table, rows in ((projection.table, after.values()), (projection.history, entries)):
        if table is not None:
            await _write(connection, names[table], rows, key=projection.keys[table])


def read_statement(table: str) -> str:
    """The rows of some streams, whole, as JSON."""
    return f"SELECT stream, to_json(t)::text AS content FROM {table} AS t WHERE stream = ANY($1)"  # noqa: S608 - our names


def write_statement(table: str, key: str, columns: Iterable[str]) -> str:
    """Rows, given as one JSON array, stand in the table in place of those with the same key."""
    names = sorted(columns)
    listed, changed = ", ".join(names), ", ".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"INSERT INTO {table} ({listed}) SELECT {listed} FROM json_populate_recordset(NULL::{table}, $1::json) "  # noqa: S608 - our names
        f"ON CONFLICT ({key}) DO UPDATE SET {changed}"
    )


async def _rows_of(connection: Connection, table: str, streams: set[UUID]) -> dict[UUID, Row]:
    rows = await connection.fetch(read_statement(table), list(streams))
    return {row["stream"]: orjson.loads(row["content"]) for row in rows}


async def _write(connection: Connection, table: str, rows: Iterable[Row], *, key: str) -> None:
    listed = list(rows)
    if listed:
        written = orjson.dumps(listed, default=str).decode()
        await connection.execute(write_statement(table, key, listed[0]), written)


async def locked_checkpoint(connection: Connection, name: str) -> Position:
    """Where the projection is; nobody else moves it before this transaction ends."""
    mark = await connection.fetchrow(
        "INSERT INTO checkpoints VALUES ($1, '0', 0) ON CONFLICT (projection) DO UPDATE "
        "SET projection = excluded.projection RETURNING txid::text::bigint AS txid, position",
        name,
    )
    if mark is None:
        raise StoreUnavailable("no checkpoint")
    return Position(mark["txid"], mark["position"])


async def move_checkpoint(connection: Connection, name: str, end: Position) -> None:
    """The projection is at that place when the transaction commits."""
    await connection.execute(
        "UPDATE checkpoints SET txid = $2::text::xid8, position = $3 WHERE projection = $1",
        name,
        str(end.txid),
        end.position,
    )


async def step_checkpoint(connection: Connection, name: str, start: Position, end: Position) -> bool:
    """The projection went from the one place to the other, unless somebody else had moved it before."""
    row = await connection.fetchrow(
        "UPDATE checkpoints SET txid = $2::text::xid8, position = $3 "
        "WHERE projection = $1 AND txid = $4::text::xid8 AND position = $5 RETURNING position",
        name,
        str(end.txid),
        end.position,
        str(start.txid),
        start.position,
    )
    return row is not None


class Projector:
    """Keeps one projection up with the events. Woken after each commit of this process, with a slow poll behind."""

    def __init__(self, store: Store, projection: Projection) -> None:
        self._store = store
        self._projection = projection
        self._at: Position | None = None  # where the projection was when this one last knew
        self._wake = asyncio.Event()
        store.on_commit(lambda unit: self._wake.set() if unit.events else None)

    async def run(self) -> None:
        """Follows until cancelled, through any number of database failures."""
        while True:
            try:
                self._wake.clear()
                count, is_behind = await self.advance()
            except (StoreUnavailable, *UNAVAILABLE) as error:
                log.warning("projection_was_interrupted", projection=self._projection.name, reason=repr(error))
                self._at = None  # what comes back may be an older database
                await asyncio.sleep(0.5)
                continue
            if count < BATCH_MAX and not is_behind:
                await until_woken(self._wake, IDLE_POLL_S)
            await asyncio.sleep(GATHER_S)

    async def _is_still_there(self) -> bool:
        """Whether the projection is where this one knew it: not if the database is an older one by now."""
        row = await self._store.fetchrow(
            "SELECT txid::text::bigint AS txid, position FROM checkpoints WHERE projection = $1", self._projection.name
        )
        if row is not None and Position(row["txid"], row["position"]) == self._at:
            return True
        self._at = None
        return False

    async def advance(self) -> tuple[int, bool]:
        """One batch is applied: how many events, and whether more are there that could not be applied yet.

        Where there is nothing to apply, those are two looks and no transaction.
        """
        if self._at is None:
            async with self._store.transaction() as connection:
                self._at = await locked_checkpoint(connection, self._projection.name)
        batch = await read_batch(self._store, self._store.pool, self._at, BATCH_MAX)
        if not batch.events:
            return 0, batch.is_behind or not await self._is_still_there()
        start, self._at = self._at, None
        async with self._store.transaction() as connection:
            # Rows and checkpoint are lost together, if at all, and then made again from the events.
            await connection.execute("SET LOCAL synchronous_commit TO off")
            if not await step_checkpoint(connection, self._projection.name, start, batch.end):
                return 0, True
            await apply(self._projection, batch.events, connection)
            reached(Point.PROJECTION_BEFORE)
        self._at = batch.end
        reached(Point.PROJECTION_AFTER)
        if self._projection.on_advance is not None:
            self._projection.on_advance(batch.events)
        return len(batch.events), batch.is_behind
