"""Statements that SQLite cannot say, written by hand. Each is found by the very words that a service uses."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any
from uuid import UUID

from services.chassis.joined import COMMIT, UNIT_PARAMETERS
from services.chassis.store import ClaimedLater, HandledBefore, HappenedElsewhere
from tests.simulation import projected
from tests.simulation.database import Database, Handwritten, Row, violation
from tests.simulation.spelling import bound

_WORDS: dict[str, Handwritten] = {}
_PARAMETER = re.compile(r"\$(\d+)")


def words(text: str) -> Callable[[Handwritten], Handwritten]:
    """The function answers the statement that reads so."""

    def kept(function: Handwritten) -> Handwritten:
        _WORDS[" ".join(text.split())] = function
        return function

    return kept


@cache
def handwritten() -> dict[str, Handwritten]:
    """Every statement that is answered by hand."""
    return dict(_WORDS) | {" ".join(text.split()): answer for text, answer in projected.statements()}


def answers(sql: str) -> Handwritten | None:
    """What answers the statement by hand, if anything does."""
    return partial(commit, statement=sql) if COMMIT in sql else handwritten().get(" ".join(sql.split()))


def commit(database: Database, arguments: tuple[Any, ...], *, statement: str) -> list[Row]:
    """All of the unit, or none, as services/chassis/schema_8.sql has it, and the statements beside it."""
    sqlite = database.sqlite
    sqlite.execute("SAVEPOINT unit")
    try:
        _committed(sqlite, arguments)
        for sql, values in _beside(statement, arguments):
            by_hand = handwritten().get(sql)
            if by_hand is None:
                database.run(sql, values)
            else:
                by_hand(database, values)
    except BaseException as error:
        sqlite.execute("ROLLBACK TO unit")
        sqlite.execute("RELEASE unit")
        if isinstance(error, sqlite3.IntegrityError):
            raise violation(error) from error
        raise
    sqlite.execute("RELEASE unit")
    database.appended += zip(*arguments[1:5], strict=True)
    return []


def _beside(statement: str, arguments: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each statement that stands beside `commit_unit`, as its service said it, with its own parameters."""
    lines = statement.split("\n")
    unit = lines.index(next(line for line in lines if line.startswith(COMMIT)))
    writes = [line.rstrip(",").partition(" AS (")[2][:-1] for line in lines[1:unit]]
    for sql in (*writes, *(f"SELECT {line.rstrip(',')}" for line in lines[unit + 1 :])):
        numbers = [int(number) for number in _PARAMETER.findall(sql)]
        behind = min(numbers, default=1) - 1
        yield _renumbered(sql, behind), arguments[behind : max(numbers, default=0)]


def _renumbered(sql: str, behind: int) -> str:
    return _PARAMETER.sub(lambda found: f"${int(found[1]) - behind}", sql)


def _committed(sqlite: sqlite3.Connection, arguments: tuple[Any, ...]) -> None:
    inbox_id, streams, versions, topics, states = arguments[:5]
    finishes, holds = arguments[13:15], arguments[15:17]
    if finishes[0] is not None:
        if not sqlite.execute("DELETE FROM work WHERE id = ? AND attempts = ?", finishes).rowcount:
            raise ClaimedLater
    elif holds[0] is not None:
        held = sqlite.execute("SELECT 1 FROM work WHERE id = ? AND attempts = ?", holds)
        if held.fetchone() is None:
            raise ClaimedLater
    if inbox_id is not None and not is_new(sqlite, inbox_id):
        raise HandledBefore
    for seen in zip(*arguments[17:UNIT_PARAMETERS], strict=True):
        if not is_last(sqlite, *seen):
            raise HappenedElsewhere
    append(sqlite, [(stream.hex, *rest) for stream, *rest in zip(streams, versions, topics, states, strict=True)])
    sqlite.executemany(
        "INSERT INTO outbox (message_id, exchange, routing_key, body) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (message_id) DO NOTHING",
        list(zip(*arguments[5:9], strict=True)),
    )
    items = {(kind, key): (payload, delay) for kind, key, payload, delay in zip(*arguments[9:13], strict=True)}
    sqlite.executemany(
        "INSERT INTO work (kind, key, payload, due_at) VALUES (?, ?, ?, now() + ?) "
        "ON CONFLICT (kind, key) DO UPDATE SET due_at = min(work.due_at, excluded.due_at)",
        [(*named, payload, bound(delay)) for named, (payload, delay) in sorted(items.items())],
    )


def is_new(sqlite: sqlite3.Connection, message_id: str) -> bool:
    """Whether the message was never handled before."""
    new = sqlite.execute("INSERT INTO inbox (message_id) VALUES (?) ON CONFLICT DO NOTHING", (message_id,))
    return bool(new.rowcount)


def is_last(sqlite: sqlite3.Connection, stream: UUID, version: int, state: bytes) -> bool:
    """Whether the stream ends with that event."""
    ((last,),) = sqlite.execute("SELECT max(version) FROM events WHERE stream = ?", (stream.hex,))
    same = "SELECT 1 FROM events WHERE stream = ? AND version = ? AND state = ?"
    return last == version and sqlite.execute(same, (stream.hex, version, state)).fetchone() is not None


def append(sqlite: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    """The events stand. Raises IntegrityError when one of their versions stands already."""
    sqlite.executemany("INSERT INTO events (stream, version, topic, state) VALUES (?, ?, ?, ?)", rows)


@words("SELECT forget_said($1)")
def forget_said(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """The messages leave the outbox."""
    if database.on_forgotten is not None:
        database.on_forgotten(database.schema, arguments[0])
    return database.run("DELETE FROM outbox WHERE message_id = ANY($1)", arguments)


_CLAIMED = (
    "UPDATE work SET attempts = attempts + 1, beats = beats + 1, claimed_pid = pg_backend_pid() "
    "WHERE id = ANY($1) RETURNING id, kind, key, payload, attempts"
)


@words(
    """
    WITH claimed AS (
        UPDATE work SET attempts = attempts + 1, beats = beats + 1, claimed_pid = pg_backend_pid() WHERE id IN (
            SELECT due.id FROM unnest($1::text[], $2::int[]) AS wanted(kind, places) CROSS JOIN LATERAL (
                SELECT id FROM work WHERE kind = wanted.kind AND due_at <= now() AND claimed_pid IS NULL
                AND id <> ALL($3::bigint[])
                ORDER BY due_at LIMIT wanted.places FOR UPDATE SKIP LOCKED) AS due)
        RETURNING id, kind, key, payload::text AS payload, attempts)
    SELECT later.due_s, claimed.* FROM (
        SELECT extract(epoch FROM min(due_at) - now())::float8 AS due_s FROM work WHERE due_at > now()) AS later
    LEFT JOIN claimed ON true
    """
)
def claim_due(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """As much due work of each kind as there are places, and when the next is due."""
    kinds, places, running = arguments
    ids: list[int] = []
    for kind, most in zip(kinds, places, strict=True):
        found = database.sqlite.execute(
            "SELECT id FROM work WHERE kind = ? AND due_at <= now() AND claimed_pid IS NULL "
            "AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY due_at, id LIMIT ?",
            (kind, json.dumps(running), most),
        )
        ids += [number for (number,) in found]
    claimed = database.run(_CLAIMED, (ids,)) if ids else [Row(id=None)]
    ((due_s,),) = database.sqlite.execute("SELECT (min(due_at) - now()) / 1000000.0 FROM work WHERE due_at > now()")
    return [Row(row, due_s=due_s) for row in claimed]


@words(
    """
    UPDATE work SET attempts = attempts + 1, beats = beats + 1, claimed_pid = pg_backend_pid() WHERE id IN (
        SELECT id FROM work JOIN unnest($1::bigint[], $2::int[], $3::bigint[]) AS seen(id, attempt, beat)
        USING (id) WHERE attempts = attempt AND beats = beat AND claimed_pid IS NOT NULL
        FOR UPDATE OF work SKIP LOCKED)
    RETURNING id, kind, key, payload::text AS payload, attempts
    """
)
def take(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """The claims that still look as they were seen."""
    ids = [
        number
        for number, attempt, beat in zip(*arguments, strict=True)
        if database.run(
            "SELECT id FROM work WHERE id = $1 AND attempts = $2 AND beats = $3 AND claimed_pid IS NOT NULL",
            (number, attempt, beat),
        )
    ]
    return database.run(_CLAIMED, (ids,)) if ids else []


@words(
    "SELECT id, kind, attempts, beats, "
    "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = claimed_pid) AS is_orphaned "
    "FROM work WHERE claimed_pid IS NOT NULL AND kind = ANY($1::text[]) AND id <> ALL($2::bigint[])"
)
def others(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """Every claim that is not one of mine."""
    rows = database.run(
        "SELECT id, kind, attempts, beats, claimed_pid FROM work "
        "WHERE claimed_pid IS NOT NULL AND kind = ANY($1) AND id <> ALL($2) ORDER BY id",
        arguments,
    )
    return [Row(row, is_orphaned=row["claimed_pid"] not in database.connections) for row in rows]


@words(
    "UPDATE work SET beats = beats + 1, claimed_pid = pg_backend_pid() "
    "FROM unnest($1::bigint[], $2::int[]) AS mine(id, attempt) "
    "WHERE work.id = mine.id AND work.attempts = mine.attempt AND claimed_pid IS NOT NULL RETURNING work.id"
)
def renew(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """The claims that are still held are renewed."""
    return [
        row
        for held in zip(*arguments, strict=True)
        for row in database.run(
            "UPDATE work SET beats = beats + 1, claimed_pid = pg_backend_pid() "
            "WHERE id = $1 AND attempts = $2 AND claimed_pid IS NOT NULL RETURNING id",
            held,
        )
    ]


@words(
    "SELECT work.id FROM work JOIN unnest($1::bigint[], $2::int[]) AS mine(id, attempt) USING (id) "
    "WHERE work.attempts > mine.attempt"
)
def lost(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """The claims that somebody else has."""
    return [
        row
        for held in zip(*arguments, strict=True)
        for row in database.run("SELECT id FROM work WHERE id = $1 AND attempts > $2", held)
    ]
