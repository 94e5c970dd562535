"""Statements that SQLite cannot say, written by hand. Each is found by the very words that a service uses."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from services.chassis.unit import WorkClaim
from tests.simulation.database import Database, Handwritten, Row, bound, violation

_WORDS: dict[str, Handwritten] = {}


def words(text: str) -> Callable[[Handwritten], Handwritten]:
    """The function answers the statement that reads so."""

    def kept(function: Handwritten) -> Handwritten:
        _WORDS[" ".join(text.split())] = function
        return function

    return kept


def handwritten() -> dict[str, Handwritten]:
    """Every statement that is answered by hand."""
    return dict(_WORDS)


@words("SELECT commit_unit($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)")
def commit_unit(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """All of the unit, or none, as services/chassis/schema.sql has it."""
    sqlite = database.sqlite
    sqlite.execute("SAVEPOINT unit")
    try:
        outcome = _committed(sqlite, arguments)
    except sqlite3.IntegrityError as error:
        sqlite.execute("ROLLBACK TO unit")
        sqlite.execute("RELEASE unit")
        raise violation(error) from error
    if outcome != "committed":
        sqlite.execute("ROLLBACK TO unit")
    sqlite.execute("RELEASE unit")
    if outcome == "committed":
        database.appended += zip(*arguments[1:5], strict=True)
    return [Row(commit_unit=outcome)]


def _committed(sqlite: sqlite3.Connection, arguments: tuple[Any, ...]) -> str:
    inbox_id, streams, versions, topics, states = arguments[:5]
    claim = WorkClaim(*arguments[13:])
    if claim.work_id is not None:
        done = sqlite.execute("DELETE FROM work WHERE id = ? AND attempts = ?", (claim.work_id, claim.attempt))
        if not done.rowcount:
            return "fenced"
    if inbox_id is not None:
        new = sqlite.execute("INSERT INTO inbox (message_id) VALUES (?) ON CONFLICT DO NOTHING", (inbox_id,))
        if not new.rowcount:
            return "duplicate"
    sqlite.executemany(
        "INSERT INTO events (stream, version, topic, state) VALUES (?, ?, ?, ?)",
        [(stream.hex, *rest) for stream, *rest in zip(streams, versions, topics, states, strict=True)],
    )
    sqlite.executemany(
        "INSERT INTO outbox (message_id, exchange, routing_key, body) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (message_id) DO NOTHING",
        list(zip(*arguments[5:9], strict=True)),
    )
    items = {(kind, key): (payload, due) for kind, key, payload, due in zip(*arguments[9:13], strict=True)}
    sqlite.executemany(
        "INSERT INTO work (kind, key, payload, due_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (kind, key) DO UPDATE SET due_at = min(work.due_at, excluded.due_at)",
        [(*named, payload, bound(due)) for named, (payload, due) in sorted(items.items())],
    )
    return "committed"


@words(
    """
    UPDATE work SET attempts = attempts + 1, claimed_until = now() + $3, claimed_pid = pg_backend_pid()
    WHERE id IN (
        SELECT due.id FROM unnest($1::text[], $2::int[]) AS wanted(kind, places) CROSS JOIN LATERAL (
            SELECT id FROM work WHERE kind = wanted.kind AND due_at <= now() AND id <> ALL($4::bigint[])
            AND (claimed_until IS NULL OR claimed_until < now()
                 OR NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = claimed_pid))
            ORDER BY due_at LIMIT wanted.places FOR UPDATE SKIP LOCKED) AS due)
    RETURNING id, kind, key, payload::text AS payload, attempts
    """
)
def claim(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """As much due work of each kind as there are places."""
    kinds, places, hold, running = arguments
    ids: list[int] = []
    for kind, most in zip(kinds, places, strict=True):
        found = database.sqlite.execute(
            "SELECT id, claimed_pid FROM work WHERE kind = ? AND due_at <= now() "
            "AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY due_at, id",
            (kind, json.dumps(running)),
        )
        until = dict(database.sqlite.execute("SELECT id, claimed_until < now() FROM work WHERE kind = ?", (kind,)))
        free = [number for number, pid in found if until[number] in (None, 1) or pid not in database.connections]
        ids += free[:most]
    if not ids:
        return []
    return database.run(
        "UPDATE work SET attempts = attempts + 1, claimed_until = now() + $1, claimed_pid = pg_backend_pid() "
        "WHERE id = ANY($2) RETURNING id, kind, key, payload, attempts",
        (hold, ids),
    )


@words(
    "UPDATE work SET claimed_until = now() + $1, claimed_pid = pg_backend_pid() "
    "FROM unnest($2::bigint[], $3::int[]) AS mine(id, attempt) "
    "WHERE work.id = mine.id AND work.attempts = mine.attempt AND claimed_until IS NOT NULL"
)
def beat(database: Database, arguments: tuple[Any, ...]) -> list[Row]:
    """The claims that are still held are extended."""
    hold, ids, attempts = arguments
    for number, attempt in zip(ids, attempts, strict=True):
        database.run(
            "UPDATE work SET claimed_until = now() + $1, claimed_pid = pg_backend_pid() "
            "WHERE id = $2 AND attempts = $3 AND claimed_until IS NOT NULL",
            (hold, number, attempt),
        )
    return []


@words(
    """
    SELECT q.task_id, p.machine_id, p.host, p.epoch
    FROM pool p CROSS JOIN LATERAL (
        SELECT task_id, priority, queued_at FROM queue
        WHERE profile = p.profile AND (machine_id IS NULL OR machine_id = p.machine_id) AND route = ANY(p.routes)
        ORDER BY priority DESC, queued_at LIMIT 1) q
    WHERE p.is_ready ORDER BY q.priority DESC, q.queued_at, p.machine_id LIMIT 1
    """
)
def pick(database: Database, _arguments: tuple[Any, ...]) -> list[Row]:
    """The next match of a waiting task and a ready machine."""
    return database.run(
        "SELECT q.task_id, p.machine_id, p.host, p.epoch FROM pool p JOIN queue q ON q.profile = p.profile "
        "AND (q.machine_id IS NULL OR q.machine_id = p.machine_id) AND q.route = ANY(p.routes) "
        "WHERE p.is_ready ORDER BY q.priority DESC, q.queued_at, p.machine_id LIMIT 1",
        (),
    )
