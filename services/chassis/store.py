"""The service's own schema in PostgreSQL, over asyncpg: events, inbox, outbox, work and rows in one transaction."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import chain
from typing import Any, ClassVar, Self, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import structlog
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import (
    DatetimeAsISO,
    JSONTranscoder,
    Mapper,
    StoredEvent,
    UUIDAsHex,
)

from services.chassis.crash_points import Point, around
from services.chassis.errors import PermanentError, TransientError
from services.chassis.joined import joined
from services.chassis.recent import AtHand, Recent, Seen
from services.chassis.unit import Unit

POOL_MAX_CONNECTIONS = 8
"""A commit is one statement, so few connections serve many units; and each has to prepare every statement once."""
STATEMENTS_KEPT_MAX = 500
STATEMENT_TIMEOUT_S = 30.0
STANDSTILL_MAX_S = 12
"""How long a transaction may wait for its own process. One that is stopped in the middle (SIGSTOP, a suspended host)
would keep its locks from who takes over, and hold up every projection. Longer than the relay waits for a confirm."""
EVENTS_MAX = 10_000  # read at once

log = structlog.get_logger()
A = TypeVar("A", bound=Aggregate)
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


class StoreUnavailable(TransientError):
    """the database cannot be used now"""


class Conflict(TransientError):
    """somebody else changed the same aggregate first"""


class Duplicate(Exception):
    """The message that caused the unit was already handled; nothing was changed."""


class Fenced(Exception):
    """The work that the unit belongs to has a later claim; nothing was changed."""


class HandledBefore(asyncpg.PostgresError):
    """`commit_unit` met the message in the inbox."""

    sqlstate: ClassVar[str] = "MB001"


class HappenedElsewhere(asyncpg.PostgresError):
    """`commit_unit` met another history of an aggregate than this process remembers."""

    sqlstate: ClassVar[str] = "MB003"


class ClaimedLater(asyncpg.PostgresError):
    """`commit_unit` met a later claim of the work, or none."""

    sqlstate: ClassVar[str] = "MB002"


UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a statement on a connection that the server has just given up
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,  # what a server without disk space says to whoever connects
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


async def _nothing_to_reset(_connection: Connection) -> None:
    """No statement here changes its session for longer than a transaction, so a returned connection is as new.

    asyncpg's own reset would be a second round trip for every query. It still rolls an open transaction back.
    """


def make_mapper() -> Mapper[UUID]:
    """Turns events into rows and back: JSON with instants and UUIDs."""
    transcoder = JSONTranscoder()
    transcoder.register(UUIDAsHex())
    transcoder.register(DatetimeAsISO())
    return Mapper(transcoder)


@contextlib.contextmanager
def translated() -> Any:
    """Faults of the connection become StoreUnavailable."""
    try:
        yield
    except UNAVAILABLE as error:
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error


class Store:
    """Loads aggregates, commits units, and lets a service query its own tables."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", schema: str) -> None:
        self.pool = pool
        self.schema = schema
        self._mapper = make_mapper()
        self._recent = Recent()
        self._at_hand = AtHand()
        self._listeners: list[Callable[[Unit], None]] = []

    @classmethod
    async def open(cls, url: str, schema: str) -> Self:
        """A pool whose connections see only the service's schema. Raises StoreUnavailable."""
        with translated():
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=POOL_MAX_CONNECTIONS,
                command_timeout=STATEMENT_TIMEOUT_S,
                timeout=10,
                reset=_nothing_to_reset,
                statement_cache_size=STATEMENTS_KEPT_MAX,
                max_cached_statement_lifetime=0,  # a service says the same statements for as long as it lives
                server_settings={
                    "search_path": schema,
                    "application_name": f"malbox-{schema}",
                    "idle_in_transaction_session_timeout": f"{STANDSTILL_MAX_S}s",
                },
            )
        return cls(pool, schema)

    async def close(self) -> None:
        """Connections are returned and closed, by force after five seconds."""
        try:
            await asyncio.wait_for(self.pool.close(), 5)
        except TimeoutError:
            self.pool.terminate()

    def on_commit(self, listener: Callable[[Unit], None]) -> None:
        """`listener` is called in this process after every commit; it must not block."""
        self._listeners.append(listener)

    async def load(self, kind: type[A], stream: UUID, unit: Unit | None = None) -> A | None:
        """The aggregate as its events say, or None when it has none. Raises StoreUnavailable.

        For a unit it may be as this process last knew it: then the unit stands only if nothing happened to it since.
        """
        if unit is None:
            seen = await self._read(kind, stream)
        elif stream in unit.loaded:
            seen = unit.loaded[stream]
        else:
            seen = await self._load_for(unit, kind, stream)
        aggregate: A | None = seen.aggregate
        return aggregate

    async def _load_for(self, unit: Unit, kind: type[A], stream: UUID) -> Seen:
        seen = self._at_hand.take(stream)
        if seen is not None and isinstance(seen.aggregate, kind):
            unit.from_memory.add(stream)
        else:
            seen = await self._read(kind, stream)
        if seen.aggregate is not None:
            unit.loaded[stream] = seen
        return seen

    async def _read(self, kind: type[A], stream: UUID) -> Seen:
        seen = self._recent.get(stream)
        aggregate: Any = seen.aggregate if seen else None
        version, topic, state = (seen.version, seen.topic, seen.state) if seen else (0, "", b"")
        while True:
            rows = await self.fetch(
                "SELECT version, topic, state FROM events WHERE stream = $1 AND version >= $2 "
                "ORDER BY version LIMIT $3",
                stream,
                version,
                EVENTS_MAX,
            )
            if version:
                if not rows or (rows[0]["version"], rows[0]["topic"], rows[0]["state"]) != (version, topic, state):
                    self._recent.forget(stream)  # the store has another history than it had
                    return await self._read(kind, stream)
                del rows[0]
            for row in rows:
                version, topic, state = row["version"], row["topic"], row["state"]
                aggregate = self.decode(stream, version, topic, state).mutate(aggregate)
            if len(rows) < EVENTS_MAX - 1:
                break
        if aggregate is not None and not isinstance(aggregate, kind):
            raise PermanentError(f"stream {stream} is a {type(aggregate).__name__}, not a {kind.__name__}")
        if seen is None or version > seen.version:
            self._recent.keep(stream, version, topic, state, aggregate)
        return Seen(version, topic, state, aggregate)

    def decode(self, stream: UUID, version: int, topic: str, state: bytes) -> Any:
        """The domain event in a row, upcast to its newest version."""
        return self._mapper.to_domain_event(StoredEvent(stream, version, topic, state))

    async def commit(self, unit: Unit) -> None:
        """Everything in the unit is durable. Raises Duplicate, Fenced, Conflict, StoreUnavailable: nothing is."""
        stored = [self._mapper.to_stored_event(event) for event in unit.events]
        with translated(), around(Point.COMMIT_BEFORE, Point.COMMIT_AFTER):
            await self._commit(unit, stored)
        self._keep_at_hand(unit, stored)
        for listener in self._listeners:
            listener(unit)

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of one query. Raises StoreUnavailable."""
        with translated():
            return await self.pool.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of one query. Raises StoreUnavailable."""
        with translated():
            return await self.pool.fetchrow(sql, *arguments)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection inside one transaction. Raises StoreUnavailable."""
        with translated():
            async with self.pool.acquire(timeout=10) as connection, connection.transaction():
                yield connection

    def _keep_at_hand(self, unit: Unit, stored: Sequence[StoredEvent]) -> None:
        """What the unit was decided on is the next unit's, as it is now."""
        last = {event.originator_id: event for event in stored}
        for stream, seen in unit.loaded.items():
            event = last.get(stream)
            if event is not None:
                seen = Seen(event.originator_version, event.topic, event.state, seen.aggregate)  # noqa: PLW2901
            if seen.aggregate.version == seen.version and not seen.aggregate.pending_events:
                self._at_hand.put(stream, seen)

    async def _commit(self, unit: Unit, stored: Sequence[StoredEvent]) -> None:
        statement = joined(tuple((sql, len(arguments)) for sql, arguments in unit.statements))
        parameters = (*_of_unit(unit, stored), *chain.from_iterable(arguments for _, arguments in unit.statements))
        try:
            async with self.pool.acquire(timeout=10) as connection:
                await connection.execute(statement, *parameters)
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "events_stream_version_key":
                if await self._is_already_stored(stored[0]):
                    raise Duplicate from error
                raise Conflict(str(error)) from error
            raise
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
            raise Conflict(str(error)) from error
        except HappenedElsewhere as error:
            raise Conflict("the store holds another history than was remembered") from error
        except HandledBefore as error:
            raise Duplicate from error
        except ClaimedLater as error:
            raise Fenced from error

    async def _is_already_stored(self, first: StoredEvent) -> bool:
        """A conflict with our own events is a reply that was lost, not a conflict."""
        row = await self.pool.fetchrow(
            "SELECT topic, state FROM events WHERE stream = $1 AND version = $2",
            first.originator_id,
            first.originator_version,
        )
        return row is not None and row["topic"] == first.topic and row["state"] == first.state


def _of_unit(unit: Unit, stored: Sequence[StoredEvent]) -> tuple[Any, ...]:
    seen = {stream: unit.loaded[stream] for stream in unit.from_memory}
    return (
        unit.cause.message_id,
        [event.originator_id for event in stored],
        [event.originator_version for event in stored],
        [event.topic for event in stored],
        [event.state for event in stored],
        [row.message_id for row in unit.outbox],
        [row.exchange for row in unit.outbox],
        [row.routing_key for row in unit.outbox],
        [row.body for row in unit.outbox],
        [row.kind for row in unit.work],
        [row.key for row in unit.work],
        [row.payload.decode() for row in unit.work],
        [row.due_at - unit.at for row in unit.work],
        unit.finishes.work_id if unit.finishes else None,
        unit.finishes.attempt if unit.finishes else None,
        unit.holds.work_id if unit.holds else None,
        unit.holds.attempt if unit.holds else None,
        list(seen),
        [one.version for one in seen.values()],
        [one.state for one in seen.values()],
    )
