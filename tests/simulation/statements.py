"""Statements that SQLite cannot say, written by hand. Each is found by the very words that a service uses."""

import json
import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any

from tests.simulation import projected
from tests.simulation.database import Database, Handwritten, Row, bound, violation

_WORDS: dict[str, Handwritten] = {}


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


@words("SELECT commit_unit($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17)")
def commit_unit(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """All of the unit, or none, as services/chassis/schema_5.sql has it."""
    sqlite = database.sqlite
    sqlite.execute("SAVEPOINT unit")
    try:
        outcome = _committed(sqlite, arguments)
    except sqlite3.IntegrityError as error:
        sqlite.execute("ROLLBACK TO unit")
        sqlite.execute("RELEASE unit")
        raise violation(error) from error
    sqlite.execute("RELEASE unit")  # a refused unit changed nothing, or its transaction is rolled back by the store
    if outcome == "committed":
        database.appended += zip(*arguments[1:5], strict=True)
    return [Row(commit_unit=outcome)]


def _committed(sqlite: sqlite3.Connection, arguments: tuple[Any, ...]) -> str:
    inbox_id, streams, versions, topics, states = arguments[:5]
    finishes, holds = arguments[13:15], arguments[15:]
    if finishes[0] is not None:
        if not sqlite.execute("DELETE FROM work WHERE id = ? AND attempts = ?", finishes).rowcount:
            return "fenced"
    elif holds[0] is not None:
        held = sqlite.execute("SELECT 1 FROM work WHERE id = ? AND attempts = ?", holds)
        if held.fetchone() is None:
            return "fenced"
    if inbox_id is not None and not is_new(sqlite, inbox_id):
        return "duplicate"
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
    return "committed"


def is_new(sqlite: sqlite3.Connection, message_id: str) -> bool:
    """Whether the message was never handled before."""
    new = sqlite.execute("INSERT INTO inbox (message_id) VALUES (?) ON CONFLICT DO NOTHING", (message_id,))
    return bool(new.rowcount)


def append(sqlite: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    """The events stand. Raises IntegrityError when one of their versions stands already."""
    sqlite.executemany("INSERT INTO events (stream, version, topic, state) VALUES (?, ?, ?, ?)", rows)


_CLAIMED = (
    "UPDATE work SET attempts = attempts + 1, beats = beats + 1, claimed_pid = pg_backend_pid() "
    "WHERE id = ANY($1) RETURNING id, kind, key, payload, attempts"
)


@words(
    """
    UPDATE work SET attempts = attempts + 1, beats = beats + 1, claimed_pid = pg_backend_pid() WHERE id IN (
        SELECT due.id FROM unnest($1::text[], $2::int[]) AS wanted(kind, places) CROSS JOIN LATERAL (
            SELECT id FROM work WHERE kind = wanted.kind AND due_at <= now() AND claimed_pid IS NULL
            AND id <> ALL($3::bigint[])
            ORDER BY due_at LIMIT wanted.places FOR UPDATE SKIP LOCKED) AS due)
    RETURNING id, kind, key, payload::text AS payload, attempts
    """
)
def claim_due(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """As much due work of each kind as there are places."""
    kinds, places, running = arguments
    ids: list[int] = []
    for kind, most in zip(kinds, places, strict=True):
        found = database.sqlite.execute(
            "SELECT id FROM work WHERE kind = ? AND due_at <= now() AND claimed_pid IS NULL "
            "AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY due_at, id LIMIT ?",
            (kind, json.dumps(running), most),
        )
        ids += [number for (number,) in found]
    return database.run(_CLAIMED, (ids,)) if ids else []


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
