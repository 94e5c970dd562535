"""asyncpg's pool, connections and transactions, as far as services use them: a database in memory, behind a network."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Self

import asyncpg

from tests.simulation.database import Answers, Database, Row


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
