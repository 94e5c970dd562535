"""PostgreSQL in memory: the services' own SQL on SQLite. The way to it is in `connections`.

Statements are translated where the two dialects differ in spelling (`spelling`), and written by hand where they
differ in power (`statements`). A statement that is neither raises, so that drift of a service's SQL is seen at once.
The conformance test runs the same operations against a real PostgreSQL.
"""

import json
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime
from typing import Any
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
