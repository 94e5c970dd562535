"""The services' SQL and its parameters in SQLite's spelling, where the two dialects differ in no more than that."""

import json
import re
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Microseconds since the epoch: how instants are kept here, so that they can be compared and added to."""
    return (at - EPOCH) // _MICROSECOND


def bound(value: Any) -> Any:
    """The parameter as SQLite takes it."""
    kind = type(value)
    if kind is datetime:
        return micros(value)
    if kind is timedelta:
        return value // _MICROSECOND
    if kind is UUID:
        return value.hex
    if kind is bool:
        return int(value)
    if isinstance(value, list | tuple):
        return json.dumps([bound(item) for item in value])
    return value


_CONVERTERS: dict[str, Callable[[bytes], Any]] = {
    "timestamptz_int": lambda raw: EPOCH + timedelta(microseconds=int(raw)),
    "boolean_int": lambda raw: raw == b"1",
    "uuid_text": lambda raw: UUID(raw.decode()),
    "array_text": json.loads,
}
for _name, _converter in _CONVERTERS.items():
    sqlite3.register_converter(_name, _converter)

_SPELLING: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"::(float8|text\[\]|text|jsonb|bigint\[\]|bigint|xid8|interval|integer|int\[\]|int|boolean|timestamptz)", ""),
        (r"\$(\d+)", r"?\1"),
        (r"=\s*ANY\(([^()]*)\)", r"IN (SELECT value FROM json_each(\1))"),
        (r"<>\s*ALL\(([^()]*)\)", r"NOT IN (SELECT value FROM json_each(\1))"),
        (r"SELECT unnest\((\?\d+)\)", r"SELECT value FROM json_each(\1) WHERE true"),
        (r"\bunnest\((\?\d+)\) AS (\w+)\b(?!\()", r"(SELECT value AS \2 FROM json_each(\1)) AS of_\2"),
        (r"\bFOR UPDATE( SKIP LOCKED)?", ""),
        (r"\bgreatest\(", "max("),
        (r"\bleast\(", "min("),
        (r"\bSELECT FROM\b", "SELECT 1 FROM"),
        (r"\bTRUNCATE\b", "DELETE FROM"),
    )
)


@lru_cache(maxsize=4096)
def translated(sql: str) -> str:
    """The same statement in SQLite's spelling."""
    for pattern, put in _SPELLING:
        sql = pattern.sub(put, sql)
    return _without_extract(" ".join(sql.split()))


def _without_extract(sql: str) -> str:
    """`extract(epoch FROM x)` is x in seconds."""
    mark = "extract(epoch FROM "
    while (start := sql.find(mark)) >= 0:
        depth, end = 1, start + len(mark)
        while depth:
            depth += {"(": 1, ")": -1}.get(sql[end], 0)
            end += 1
        inner = sql[start + len(mark) : end - 1]
        sql = f"{sql[:start]}(({inner}) / 1000000.0){sql[end:]}"
    return sql


_TYPES = (
    (re.compile(r"--[^\n]*"), ""),
    (re.compile(r"\btext\[\]"), "array_text"),
    (re.compile(r"\buuid\b"), "uuid_text"),
    (re.compile(r"\bjsonb\b"), "jsonb_text"),
    (re.compile(r"\bboolean\b"), "boolean_int"),
    (re.compile(r"\btimestamptz\b"), "timestamptz_int"),
    (re.compile(r"DEFAULT (now|pg_current_xact_id)\(\)"), r"DEFAULT (\1())"),
)
_IDENTITY = re.compile(r"\b(bigint|integer) GENERATED ALWAYS AS IDENTITY( PRIMARY KEY| UNIQUE)?")


def schema_statements(migration: str) -> list[str]:
    """The migration's statements in SQLite's spelling; functions of the database are written by hand."""
    for pattern, put in _TYPES:
        migration = pattern.sub(put, migration)
    migration = re.sub(r"CREATE (OR REPLACE )?FUNCTION.*?\$\$;", "", migration, flags=re.DOTALL)
    migration = re.sub(r"DROP FUNCTION[^;]*;", "", migration)
    found: list[str] = []
    for statement in (part.strip() for part in migration.split(";")):
        if statement.startswith("SELECT") or " ALTER COLUMN " in statement:
            continue  # it fills or tightens tables that are empty here
        if statement.startswith("ALTER TABLE") and " ADD COLUMN " in statement:
            head, _, rest = statement.partition(" ADD COLUMN ")
            found += [f"{head} ADD COLUMN {column}" for column in re.split(r",\s*ADD COLUMN ", rest)]
        elif statement.startswith("CREATE TABLE") and _IDENTITY.search(statement):
            kept = re.sub(r"\bPRIMARY KEY\b", "NOT NULL UNIQUE", _IDENTITY.sub("@identity", statement))
            found.append(kept.replace("@identity", "INTEGER PRIMARY KEY AUTOINCREMENT"))
        elif statement:
            found.append(statement)
    return found
