"""PostgreSQL as the services see it through asyncpg, in memory: their own SQL on SQLite, behind a network.

Statements are translated where the two dialects differ in spelling (`spelling`), and written by hand where they
differ in power (`statements`). A statement that is neither raises, so that drift of a service's SQL is seen at once.
The conformance test runs the same operations against a real PostgreSQL.
"""

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Self
from uuid import UUID

import asyncpg

from tests.simulation.spelling import bound, micros, schema_statements, translated


class Row(dict[str, Any]):
    """A record."""


class UnknownSql(Exception):
    """A service said something to its database that the simulation does not know."""


_INSERT_VALUES = re.compile(r"INSERT INTO (\w+) VALUES \(([^()]*)\)")


class Database:
    """The schema of one service: what survives every process. Its clock is the database server's."""

    def __init__(self, schema: str, template: bytes, now: Callable[[], datetime]) -> None:
        self.schema = schema
        self.pid = self.last_pid = 0
        self.connections: set[int] = set()
        self.txid = 1
        self.on_events: Callable[[str, list[tuple[UUID, int, str, bytes]]], None] | None = None
        self.on_forgotten: Callable[[str, list[str]], None] | None = None
        self.appended: list[tuple[UUID, int, str, bytes]] = []
        self._now = now
        self._sayings: dict[str, str] = {}
        self._open(template)

    def _open(self, content: bytes) -> None:
        self.sqlite = sqlite3.connect(
            ":memory:", isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES, cached_statements=1024
        )
        self.sqlite.deserialize(content)
        self.sqlite.create_function("now", 0, lambda: micros(self._now()))
        self.sqlite.create_function("pg_backend_pid", 0, lambda: self.pid)
        self.sqlite.create_function("pg_current_xact_id", 0, lambda: self.txid)
        self.sqlite.create_function("pg_current_snapshot", 0, lambda: 0)
        self.sqlite.create_function("array_position", 2, _array_position)
        self.sqlite.create_function("pg_snapshot_xmin", 1, lambda _snapshot: 1 << 62)

    def is_committed(self) -> None:
        """What was appended stands, and is told."""
        appended, self.appended = self.appended, []
        if appended and self.on_events is not None:
            self.on_events(self.schema, appended)

    def backup(self) -> bytes:
        """Everything as it is now."""
        return self.sqlite.serialize()

    def restore(self, content: bytes) -> None:
        """Everything is as it was then."""
        self.sqlite.close()
        self._open(content)

    def _said(self, sql: str) -> str:
        known = self._sayings.get(sql)
        if known is None:
            known = self._sayings[sql] = self._with_columns(translated(sql))
        return known

    def _with_columns(self, sql: str) -> str:
        """PostgreSQL lets an INSERT give fewer values than there are columns: those are the first ones."""
        found = _INSERT_VALUES.match(sql)
        if found is None:
            return sql
        count = found.group(2).count(",") + 1
        columns = [row[1] for row in self.sqlite.execute(f"PRAGMA table_info({found.group(1)})")][:count]
        return f"INSERT INTO {found.group(1)} ({', '.join(columns)}) VALUES {sql[found.start(2) - 1 :]}"  # noqa: S608 - the simulation's own

    def run(self, sql: str, arguments: tuple[Any, ...]) -> list[Row]:
        """The rows that the statement returns. Raises as asyncpg would."""
        try:
            cursor = self.sqlite.execute(self._said(sql), [bound(value) for value in arguments])
        except sqlite3.IntegrityError as error:
            raise violation(error) from error
        except sqlite3.Error as error:
            raise UnknownSql(f"{error}: {' '.join(sql.split())}") from error
        if cursor.description is None:
            return []
        names = [column[0] for column in cursor.description]
        return [Row(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _array_position(array: str, item: Any) -> int | None:
    items = json.loads(array)
    return items.index(item) + 1 if item in items else None


def violation(error: sqlite3.IntegrityError) -> Exception:
    """What asyncpg raises for it."""
    words = str(error)
    if not words.startswith("UNIQUE constraint failed"):
        return asyncpg.IntegrityConstraintViolationError(words)
    table = words.partition(": ")[2].partition(".")[0]
    found = asyncpg.UniqueViolationError(words)
    found.constraint_name = "events_stream_version_key" if table == "events" else f"{table}_key"
    return found


def template(schema: str, migrations: tuple[str, ...]) -> bytes:
    """An empty database of that service."""
    empty = sqlite3.connect(":memory:", isolation_level=None)
    empty.create_function("now", 0, lambda: 0)
    empty.create_function("pg_current_xact_id", 0, lambda: 0)
    for migration in migrations:
        for statement in schema_statements(migration):
            try:
                empty.execute(statement)
            except sqlite3.Error as error:
                raise UnknownSql(f"{schema}: {error}: {statement}") from error
    return empty.serialize()


Handwritten = Callable[[Database, tuple[Any, ...]], list[Row]]
Answers = Callable[[str], Handwritten | None]
"""What answers a statement by hand, if anything does."""


class Wire:
    """What lies between a process and its database. Every call is a trip there and a trip back."""

    async def there(self) -> None:
        """The request arrives. Raises OSError when it does not."""

    async def back(self, *, is_write: bool) -> None:
        """The reply arrives. Raises OSError when it does not."""


class Pool:
    """asyncpg's pool, as far as services use it."""

    def __init__(self, database: Database, wire: Wire, answers: Answers, lock: "Lock") -> None:
        self.database = database
        self.wire = wire
        self.answers = lru_cache(maxsize=4096)(answers)
        self.lock = lock
        self.opened: dict[int, Connection] = {}

    def cut(self) -> None:
        """Every connection of the process is gone, and what it was in the middle of is rolled back."""
        for connection in self.opened.values():
            connection.is_cut = True
            self.database.connections.discard(connection.pid)
            connection.abandon()
        self.opened.clear()

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        """The rows."""
        return await Connection(self).fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        """The first row."""
        return await Connection(self).fetchrow(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        """The first value of the first row."""
        return await Connection(self).fetchval(sql, *arguments)

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Done."""
        return await Connection(self).execute(sql, *arguments)

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator["Connection"]:  # noqa: ARG002, ASYNC109
        """A connection of the caller's own."""
        connection = Connection(self)
        self.database.connections.add(connection.pid)
        self.opened[connection.pid] = connection
        try:
            yield connection
        finally:
            self.database.connections.discard(connection.pid)
            self.opened.pop(connection.pid, None)
            connection.abandon()

    async def close(self) -> None:
        """Nothing to close."""

    def terminate(self) -> None:
        """Nothing to close."""


@lru_cache(maxsize=4096)
def _is_read(sql: str) -> bool:
    """A crash between a read and its reply is the same as one before it."""
    return sql.lstrip().startswith("SELECT") and "(" not in sql.partition(" FROM ")[0].replace("count(*)", "")


class Lock:
    """One transaction of several statements at a time; what waits, waits in order."""

    def __init__(self, make_future: Callable[[], Any]) -> None:
        self._make_future = make_future
        self.holder: Connection | None = None
        self._waiters: list[Any] = []

    async def until_free_for(self, connection: "Connection") -> None:
        """Nobody else is in the middle of a transaction."""
        while self.holder is not None and self.holder is not connection:
            future = self._make_future()
            self._waiters.append(future)
            await future

    def release(self) -> None:
        """The next may go on."""
        self.holder = None
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)


class Connection:
    """asyncpg's connection, as far as services use it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.database = pool.database
        self.database.last_pid += 1
        self.pid = self.database.last_pid
        self.is_cut = False
        self.transaction_: Transaction | None = None

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        """The rows."""
        wire = self.pool.wire
        await wire.there()
        if self.is_cut:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        transaction = self.transaction_
        if transaction is not None and transaction.defer(sql, arguments):
            return []
        if self.pool.lock.holder is not self:
            await self.pool.lock.until_free_for(self)
        if transaction is not None:
            transaction.begin_for(sql)
        rows = self._run(sql, arguments)
        if not _is_read(sql):
            await wire.back(is_write=transaction is None)
        return rows

    def _run(self, sql: str, arguments: tuple[Any, ...]) -> list[Row]:
        database = self.database
        database.pid = self.pid
        database.txid += 1
        by_hand = self.pool.answers(sql)
        rows = database.run(sql, arguments) if by_hand is None else by_hand(database, arguments)
        if self.pool.lock.holder is None:
            database.is_committed()
        return rows

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        """The first row."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        """The first value of the first row."""
        rows = await self.fetch(sql, *arguments)
        return next(iter(rows[0].values())) if rows else None

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Done."""
        if not sql.startswith("SET LOCAL"):
            await self.fetch(sql, *arguments)
        return ""

    def transaction(self) -> "Transaction":
        """A transaction on this connection."""
        return Transaction(self)

    def abandon(self) -> None:
        """An open transaction is rolled back."""
        if self.transaction_ is not None:
            self.transaction_.undo()


class Transaction:
    """asyncpg's transaction. It is alone in its schema from its first statement on.

    One that holds rows with FOR UPDATE SKIP LOCKED (the relay's) goes on beside others: its writes stand at its commit.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._has_begun = False
        self._is_shared = False
        self._deferred: list[tuple[str, tuple[Any, ...]]] = []

    async def start(self) -> None:
        """Begun."""
        self._connection.transaction_ = self

    async def commit(self) -> None:
        """Everything stands. Raises OSError when that could not be heard."""
        connection = self._connection
        if not self._has_begun and not self._deferred and not connection.is_cut:
            self._end()  # it only read
            return
        await connection.pool.wire.there()
        if connection.is_cut:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        if self._deferred:
            await connection.pool.lock.until_free_for(connection)
            for sql, arguments in self._deferred:
                connection._run(sql, arguments)
        if self._has_begun:
            connection.database.sqlite.execute("COMMIT")
            connection.database.is_committed()
        self._end()
        await connection.pool.wire.back(is_write=True)

    async def rollback(self) -> None:
        """Nothing stands."""
        self.undo()

    def undo(self) -> None:
        """Nothing stands."""
        if self._has_begun:
            self._connection.database.sqlite.execute("ROLLBACK")
            self._connection.database.appended.clear()
        self._end()

    def defer(self, sql: str, arguments: tuple[Any, ...]) -> bool:
        """Whether the statement waits for the commit."""
        if self._is_shared and not sql.startswith("SELECT"):
            self._deferred.append((sql, arguments))
            return True
        return False

    def begin_for(self, sql: str) -> None:
        """The transaction is alone from here on, unless it only holds rows."""
        if "SKIP LOCKED" in sql:
            self._is_shared = True
        if not self._is_shared and not self._has_begun:
            self._connection.pool.lock.holder = self._connection
            self._connection.database.sqlite.execute("BEGIN")
            self._has_begun = True

    def _end(self) -> None:
        if self._has_begun:
            self._has_begun = False
            self._connection.pool.lock.release()
        self._deferred = []
        self._connection.transaction_ = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            await self.commit()
        else:
            await self.rollback()
