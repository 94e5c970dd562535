"""The scheduler's own rows: what is known of others, who waits, and what is shown of a task."""

from functools import lru_cache

import orjson

from contracts.machines import MachineSummary
from contracts.plugins import PluginManifest
from services.chassis.projections import Projection, Recorded, Row
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.scheduler.domain.lifecycle import successor

PARSED_MAX = 1_000  # rows of catalogue and pool that were read before are not parsed again
MIGRATION = """
CREATE TABLE catalogue (name text PRIMARY KEY, manifest jsonb NOT NULL);
CREATE TABLE pool (
    machine_id text PRIMARY KEY, host text NOT NULL, profile text NOT NULL, platform text NOT NULL,
    routes text[] NOT NULL, summary jsonb NOT NULL, is_ready boolean NOT NULL, epoch integer NOT NULL,
    is_retired boolean NOT NULL DEFAULT false
);
CREATE TABLE queue (
    task_id text PRIMARY KEY, profile text NOT NULL, machine_id text, route text NOT NULL, priority integer NOT NULL,
    queued_at timestamptz NOT NULL
);
CREATE INDEX queue_in_order ON queue (profile, priority DESC, queued_at);
CREATE TABLE task_rows (
    stream uuid PRIMARY KEY, task_id text NOT NULL UNIQUE, submission_id text NOT NULL, owner text NOT NULL,
    sample_name text NOT NULL, sha256 text NOT NULL, profile text NOT NULL, state text NOT NULL,
    since timestamptz NOT NULL, submitted_at timestamptz NOT NULL, verdict text, score integer
);
CREATE INDEX task_rows_by_age ON task_rows (submitted_at DESC, task_id DESC);
CREATE TABLE task_facts (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, task_id text NOT NULL, at timestamptz NOT NULL,
    type text NOT NULL, details jsonb NOT NULL
);
CREATE INDEX task_facts_by_task ON task_facts (task_id, position);
"""


MIGRATION_2 = "ALTER TABLE pool ADD COLUMN sequence bigint NOT NULL DEFAULT 0"


@lru_cache(maxsize=PARSED_MAX)
def _manifest(text: str) -> PluginManifest:
    return PluginManifest.model_validate_json(text)


@lru_cache(maxsize=PARSED_MAX)
def _summary(text: str) -> MachineSummary:
    return MachineSummary.model_validate_json(text)


async def catalogue(store: Store) -> dict[str, PluginManifest]:
    """Every plugin that may be planned, by name."""
    rows = await store.fetch("SELECT name, manifest::text AS manifest FROM catalogue")
    return {row["name"]: _manifest(row["manifest"]) for row in rows}


async def pool(store: Store) -> list[MachineSummary]:
    """Every machine that is known and not retired."""
    rows = await store.fetch("SELECT summary::text AS summary FROM pool WHERE NOT is_retired ORDER BY machine_id")
    return [_summary(row["summary"]) for row in rows]


async def has_pool(store: Store) -> bool:
    """Whether any machine was ever heard of, be it retired by now."""
    return await store.fetchrow("SELECT FROM pool LIMIT 1") is not None


async def machine(store: Store, machine_id: str) -> MachineSummary | None:
    """The machine as it was last described, unless it is retired."""
    row = await store.fetchrow(
        "SELECT summary::text AS summary FROM pool WHERE machine_id = $1 AND NOT is_retired", machine_id
    )
    return None if row is None else _summary(row["summary"])


async def host_of(store: Store, machine_id: str) -> str | None:
    """The host that the machine is on, if it was ever heard of."""
    row = await store.fetchrow("SELECT host FROM pool WHERE machine_id = $1", machine_id)
    return None if row is None else str(row["host"])


async def unwatched(store: Store, *, behind: str, limit: int) -> list[str]:
    """Tasks that are not over, as far as is known, and that no work looks after: the first behind that id."""
    rows = await store.fetch(
        "SELECT task_id FROM task_rows WHERE state NOT IN "
        "('completed', 'failed', 'timed_out', 'cancelled', 'unserviceable') "
        "AND NOT EXISTS (SELECT 1 FROM work WHERE kind = 'wait' AND key = task_rows.task_id) "
        "AND task_id > $1 ORDER BY task_id LIMIT $2",
        behind,
        limit,
    )
    return [row["task_id"] for row in rows]


def keep_plugin(unit: Unit, manifest: PluginManifest) -> None:
    """The plugin may be planned."""
    unit.execute(
        "INSERT INTO catalogue VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest",
        manifest.name,
        manifest.model_dump_json(),
    )


def keep_machine(unit: Unit, machine: MachineSummary, *, epoch: int, condition: str) -> None:
    """The machine is known. What its service said earlier than the last word that was heard changes nothing."""
    unit.execute(
        "INSERT INTO pool (machine_id, host, profile, platform, routes, summary, is_ready, epoch, sequence, condition) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (machine_id) DO UPDATE SET "
        "host = excluded.host, profile = excluded.profile, platform = excluded.platform, routes = excluded.routes, "
        "summary = excluded.summary, is_ready = excluded.is_ready, epoch = excluded.epoch, is_retired = false, "
        "sequence = excluded.sequence, condition = excluded.condition WHERE pool.sequence <= excluded.sequence",
        machine.machine_id,
        machine.host,
        machine.profile,
        machine.platform,
        list(machine.offers),
        machine.model_dump_json(),
        condition == "ready",
        epoch,
        unit.cause.sequence,
        condition,
    )


def mark_not_ready(
    unit: Unit, machine_id: str, *, epoch: int, condition: str = "being cleaned", is_retired: bool = False
) -> None:
    """The machine is not to be had until somebody says that it is."""
    unit.execute(
        "UPDATE pool SET is_ready = false, is_retired = is_retired OR $3, epoch = greatest(epoch, $2), sequence = $4, "
        "condition = $5 WHERE machine_id = $1 AND sequence <= $4",
        machine_id,
        epoch,
        is_retired,
        unit.cause.sequence,
        condition,
    )


def keep_fact(unit: Unit, task_id: str, kind: str, details: dict[str, object]) -> None:
    """The fact is part of what is shown of the task."""
    unit.execute(
        "INSERT INTO task_facts (task_id, at, type, details) VALUES ($1, $2, $3, $4)",
        task_id,
        unit.at,
        kind,
        orjson.dumps(details).decode(),
    )


def follow(row: Row | None, recorded: Recorded) -> Row | None:
    """One event moves its task's row."""
    event, name = recorded.event, type(recorded.event).__name__
    if name == "Submitted":
        return row or _first_row(recorded)
    if row is None:
        return None
    state = successor(row["state"], name) or row["state"]
    return {
        **row,
        "state": state,
        "since": row["since"] if state == row["state"] else event.timestamp,
        "verdict": getattr(event, "verdict", None) or row["verdict"],
        "score": row["score"] if getattr(event, "score", None) is None else event.score,
    }


def _first_row(recorded: Recorded) -> Row:
    asked, at = recorded.event.submission, recorded.event.timestamp
    return {
        "stream": recorded.stream,
        "task_id": asked["task_id"],
        "submission_id": asked["submission_id"],
        "owner": asked["owner"],
        "sample_name": asked["sample"]["name"],
        "sha256": asked["sample"]["blob"]["sha256"],
        "profile": asked["request"]["profile"],
        "state": "submitted",
        "since": at,
        "submitted_at": at,
        "verdict": None,
        "score": None,
    }


TASKS = Projection("tasks", table="task_rows", follow=follow)
"""The list of tasks."""
