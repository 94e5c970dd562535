"""Makes a projection again from its events, while it goes on being read and followed.

The rows are made in temporary tables, which one connection sees and which vanish with it, so that a crash leaves
nothing and two replicas cannot meet. Then, in one transaction under the projection's checkpoint, they catch up with the
last events and what differs is carried over: a reader sees the old rows until it sees the new ones.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.limits import REASON_MAX_CHARS
from services.chassis.errors import PermanentError
from services.chassis.parked import Word
from services.chassis.projections import (
    Position,
    Projection,
    apply,
    locked_checkpoint,
    move_checkpoint,
    read_batch,
)
from services.chassis.store import Connection, Store, translated
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem

KIND = "rebuild-projection"
BATCH_MAX = 5_000
SWAP_TIMEOUT_S = 600.0
CLOSE_EVENTS = 1_000  # so few are left when readers of the checkpoint are made to wait
BEHIND_MAX = 100_000
_PREFIX = "rebuilt_"
Progress = Callable[[int], Awaitable[None]]


class UnknownProjection(PermanentError):
    """there is no such projection"""


@dataclass(frozen=True)
class Rebuilt:
    """How many events it took, and how many rows were not as they should have been."""

    events: int
    rows_changed: int


async def rebuild(store: Store, projection: Projection, progress: Progress | None = None) -> Rebuilt:
    """The projection's rows are what its events say. Safe to repeat, and beside any number of projectors.

    `progress` is told how many events are done. Raises StoreUnavailable.
    """
    async with _shadow(store, projection) as connection:
        done, place = 0, Position()
        while True:
            async with connection.transaction():
                batch = await read_batch(store, connection, place, BATCH_MAX)
                await apply(projection, batch.events, connection, prefix=_PREFIX)
            place = batch.end
            done += len(batch.events)
            if progress is not None:
                await progress(done)
            if len(batch.events) < CLOSE_EVENTS:
                break
        async with connection.transaction():
            await locked_checkpoint(connection, projection.name)
            more, place = await _catch_up(store, projection, connection, place)
            changed = [await _carry_over(connection, table, key) for table, key in projection.keys.items()]
            await move_checkpoint(connection, projection.name, place)
    return Rebuilt(done + more, sum(changed))


@contextlib.asynccontextmanager
async def _shadow(store: Store, projection: Projection) -> AsyncIterator[Connection]:
    """A connection with an empty temporary table beside each of the projection's."""
    with translated():
        async with store.pool.acquire(timeout=10) as connection:
            try:
                await _drop(connection, projection)
                for table, key in projection.keys.items():
                    await connection.execute(
                        f"CREATE TEMPORARY TABLE {_PREFIX}{table} (LIKE {table}, PRIMARY KEY ({key}))"
                    )
                yield connection
            finally:
                await _drop(connection, projection)


async def _drop(connection: Connection, projection: Projection) -> None:
    for table in projection.keys:
        await connection.execute(f"DROP TABLE IF EXISTS pg_temp.{_PREFIX}{table}")


async def _catch_up(
    store: Store, projection: Projection, connection: Connection, place: Position
) -> tuple[int, Position]:
    """Every event that the projector may have applied is applied here too."""
    done = 0
    while True:
        batch = await read_batch(store, connection, place, BATCH_MAX)
        await apply(projection, batch.events, connection, prefix=_PREFIX)
        place = batch.end
        done += len(batch.events)
        if not batch.events:
            return done, place


async def _carry_over(connection: Connection, table: str, key: str) -> int:
    """The table is what its shadow is; how many rows were wrong, missing or too many. Rows that are right stay."""
    await connection.execute(f"ANALYZE {_PREFIX}{table}")
    gone = await connection.execute(
        f"DELETE FROM {table} WHERE ctid IN (SELECT old.ctid FROM {table} AS old "  # noqa: S608 - our names
        f"LEFT JOIN {_PREFIX}{table} AS new USING ({key}) WHERE new.stream IS NULL "
        "OR ROW(old.*) IS DISTINCT FROM ROW(new.*))",
        timeout=SWAP_TIMEOUT_S,
    )
    made = await connection.execute(
        f"INSERT INTO {table} SELECT new.* FROM {_PREFIX}{table} AS new "  # noqa: S608 - our names
        f"LEFT JOIN {table} AS old USING ({key}) WHERE old.stream IS NULL",
        timeout=SWAP_TIMEOUT_S,
    )
    return max(_count(gone), _count(made))


class Rebuilds:
    """What operators ask for and see of one service's projections."""

    def __init__(self, store: Store, projections: Mapping[str, Projection], new_unit: Callable[[], Unit]) -> None:
        self._store = store
        self._projections = projections
        self._new_unit = new_unit

    @property
    def runner(self) -> Runner:
        """Does what was asked for: on one replica at a time, again after a crash."""
        return Runner(KIND, self._run, give_up=self._give_up, concurrency=1, attempts_max=5)

    async def ask(self, name: str, word: Word) -> None:
        """The projection is made again, once however often this is said before it is done.

        Raises UnknownProjection, StoreUnavailable.
        """
        if name not in self._projections:
            raise UnknownProjection(f"There is no projection {name!r}.")
        unit = self._new_unit()
        unit.enqueue(KIND, name, {"projection": name})
        is_new = "NOT EXISTS (SELECT FROM rebuilds WHERE projection = $1 AND state = 'running')"
        unit.execute(
            f"INSERT INTO operator_actions (target, who, action, reason) SELECT $1, $2, 'rebuild', $3 WHERE {is_new}",
            name,
            word.who,
            word.why,
        )
        unit.execute(
            "INSERT INTO rebuilds (projection, who, reason, state) "
            f"SELECT $1, $2, $3, 'running' WHERE {is_new} "
            "ON CONFLICT (projection) DO UPDATE SET who = excluded.who, reason = excluded.reason, state = 'running', "
            "asked_at = now(), ended_at = NULL, events_done = 0, events_total = 0, rows_changed = 0, error = ''",
            name,
            word.who,
            word.why,
        )
        await self._store.commit(unit)

    async def listed(self) -> list[dict[str, Any]]:
        """Each projection: how far behind it is, and its last rebuild, if it ever had one."""
        return [await self._shown(projection) for projection in self._projections.values()]

    async def _shown(self, projection: Projection) -> dict[str, Any]:
        # In this order: a rebuild that is said to be done has moved the place that the events are counted from.
        last = await self._store.fetchrow(
            "SELECT state, who, reason, asked_at, ended_at, events_done, events_total, rows_changed, error "
            "FROM rebuilds WHERE projection = $1",
            projection.name,
        )
        behind = await self._store.fetchrow(
            "SELECT count(*) AS n FROM (SELECT FROM events WHERE (txid, position) > (SELECT coalesce(max(txid), '0'), "
            "coalesce(max(position), 0) FROM checkpoints WHERE projection = $1) LIMIT $2) AS later",
            projection.name,
            BEHIND_MAX,
        )
        return {
            "projection": projection.name,
            "tables": list(projection.keys),
            "events_behind": behind["n"] if behind else 0,
            "rebuild": dict(last) if last else None,
        }

    async def _run(self, item: WorkItem, context: WorkContext) -> None:
        projection = self._projections[item.payload["projection"]]
        await self._store.fetch(
            "UPDATE rebuilds SET events_total = (SELECT count(*) FROM events) WHERE projection = $1", projection.name
        )

        async def progress(done: int) -> None:
            await self._store.fetch("UPDATE rebuilds SET events_done = $2 WHERE projection = $1", projection.name, done)

        rebuilt = await rebuild(self._store, projection, progress)

        async def decide(unit: Unit) -> None:
            unit.execute(
                "UPDATE rebuilds SET state = 'done', ended_at = now(), events_done = $2, "
                "events_total = greatest(events_total, $2), rows_changed = $3 WHERE projection = $1",
                projection.name,
                rebuilt.events,
                rebuilt.rows_changed,
            )

        await context.commit(decide, finish=True)

    async def _give_up(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        async def decide(unit: Unit) -> None:
            unit.execute(
                "UPDATE rebuilds SET state = 'failed', ended_at = now(), error = $2 WHERE projection = $1",
                item.key,
                f"{type(error).__name__}: {error}".replace("\x00", "")[:REASON_MAX_CHARS],
            )

        await context.commit(decide, finish=True)


def _count(status: str) -> int:
    """The number at the end of PostgreSQL's answer, such as `DELETE 3`."""
    return int(status.rpartition(" ")[2])
