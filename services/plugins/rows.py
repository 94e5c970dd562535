"""The service's own rows: what was ordered, what ran, what was produced. Every write may be repeated."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import TypeAdapter

from contracts.catalogue import BY_TYPE
from contracts.envelope import Message
from contracts.machines import LeaseRef
from contracts.planning import EndedBy, Plan, PlannedRun
from contracts.plugins import ChildrenFound, PluginResultProduced, PluginStarted, RunError
from services.chassis.store import Store
from services.chassis.unit import Unit

CONFIRM_CHILDREN = "confirm_children"
CONFIRM_AFTER_S = 60.0
INPUTS_MAX = 400
PRODUCED_MAX = 2000
SAID_MAX = 5000
TOLD_AT_ONCE_MAX = 100
RUNS_SHOWN_MAX = 500  # a task has no more: RUNS_PER_TASK_MAX in each of ATTEMPTS_MAX attempts
log = structlog.get_logger()
_ERRORS = TypeAdapter(tuple[RunError, ...])
_RUNS = TypeAdapter(tuple[PlannedRun, ...])
CANCEL = (
    "INSERT INTO stages (task_id, attempt, stage, cancel_reason) VALUES ($1, $2, $3, $4) "
    "ON CONFLICT (task_id, attempt, stage) DO UPDATE SET cancel_reason = excluded.cancel_reason"
)
KEEP_SAID = (
    "INSERT INTO said (message_id, task_id, attempt, stage, type, data, is_awaited, place) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (message_id) DO NOTHING"
)
KEEP_SAID_TASK, KEEP_SAID_TYPE = 1, 4
"""Where the task and the type stand among its parameters."""


@dataclass(frozen=True)
class StageKey:
    """Which stage of which attempt of which task."""

    task_id: str
    attempt: int
    stage: str

    def __str__(self) -> str:
        """The key of its work."""
        return f"{self.task_id}/{self.attempt}/{self.stage}"

    @property
    def parts(self) -> tuple[str, int, str]:
        """For a statement's parameters."""
        return (self.task_id, self.attempt, self.stage)


@dataclass(frozen=True)
class StageRow:
    """How far a stage came."""

    is_ordered: bool
    cancel_reason: str | None
    outcome: str | None
    launched_at: datetime | None
    exec_error: str = ""
    ended_by: EndedBy | None = None
    collected: str | None = None

    @property
    def collected_errors(self) -> tuple[RunError, ...] | None:
        """What was missing from the evidence, once all that there was is durable; None before that."""
        return None if self.collected is None else _ERRORS.validate_json(self.collected)


@dataclass(frozen=True)
class Prepared:
    """The sample as it is run: `sha256` names its bytes, `container` those of the archive that it came out of.

    `is_locked`: it is an archive whose file no password opened.
    """

    package: str
    platform: str | None
    name: str
    sha256: str
    container: str | None = None
    listing: str | None = None
    mime: str = ""
    is_locked: bool = False


@dataclass(frozen=True)
class Produced:
    """One result of the stage."""

    result_id: str
    plugin: str
    name: str
    media_type: str
    sha256: str
    size_bytes: int


async def load_stage(store: Store, key: StageKey) -> StageRow | None:
    """How far the stage came, or None when nobody spoke of it."""
    row = await store.fetchrow(
        "SELECT is_ordered, cancel_reason, outcome, launched_at, exec_error, ended_by, collected::text AS collected "
        "FROM stages WHERE task_id = $1 AND attempt = $2 AND stage = $3",
        *key.parts,
    )
    return None if row is None else StageRow(**dict(row))


def order_stage(unit: Unit, key: StageKey) -> None:
    """The stage is ordered."""
    unit.execute(
        "INSERT INTO stages (task_id, attempt, stage, is_ordered) VALUES ($1, $2, $3, true) "
        "ON CONFLICT (task_id, attempt, stage) DO UPDATE SET is_ordered = true",
        *key.parts,
    )


def cancel_stage(unit: Unit, key: StageKey, reason: str) -> None:
    """The stage is to stop."""
    unit.execute(CANCEL, *key.parts, reason)


def end_stage(unit: Unit, key: StageKey, outcome: str) -> None:
    """The stage ended."""
    unit.execute(
        "UPDATE stages SET outcome = $4 WHERE task_id = $1 AND attempt = $2 AND stage = $3", *key.parts, outcome
    )


def await_decision(unit: Unit, key: StageKey) -> None:
    """What was found inside is said again until it is heard what became of it."""
    payload = {"task_id": key.task_id, "attempt": key.attempt, "stage": key.stage}
    unit.enqueue(CONFIRM_CHILDREN, key.task_id, payload, due_at=unit.at + timedelta(seconds=CONFIRM_AFTER_S))


def end_awaiting(unit: Unit, task_id: str) -> None:
    """It was heard what became of what was found inside the task's sample."""
    unit.execute("DELETE FROM work WHERE kind = $1 AND key = $2", CONFIRM_CHILDREN, task_id)
    unit.execute(
        "DELETE FROM said WHERE task_id = $1 AND type = $2 "
        "AND EXISTS (SELECT 1 FROM pins WHERE task_id = $1 AND ended_at IS NOT NULL)",
        *(task_id, ChildrenFound.type_name()),
    )


def keep_launch(unit: Unit, key: StageKey, at: datetime, exec_error: str) -> None:
    """The sample runs in the guest since then, or could not: whoever finds the stage again takes the watch over."""
    unit.execute(
        "UPDATE stages SET launched_at = $4, exec_error = $5 WHERE task_id = $1 AND attempt = $2 AND stage = $3",
        *(*key.parts, at, exec_error),
    )


def keep_end_of_watch(unit: Unit, key: StageKey, rule: EndedBy) -> None:
    """The watch ended by that rule; what is left is to collect."""
    unit.execute(
        "UPDATE stages SET ended_by = $4 WHERE task_id = $1 AND attempt = $2 AND stage = $3", *(*key.parts, rule)
    )


def keep_run(unit: Unit, key: StageKey, run_id: str, version: str, error: RunError, *, is_error: bool,
             duration_ms: int, log: str) -> None:  # fmt: skip
    """The run has an outcome."""
    unit.execute(
        "INSERT INTO stage_runs (run_id, task_id, attempt, stage, plugin, version, outcome, reason, is_error, "
        "duration_ms, log) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (run_id) DO NOTHING",
        *(run_id, *key.parts, error.plugin, version, error.outcome, error.reason, is_error, duration_ms, log),
    )


def keep_said(unit: Unit, key: StageKey, message_id: str, fact: Message, *, is_awaited: bool, place: int) -> None:
    """What was said is known to plugins that run later; what is awaited can be said again, should it get lost.

    `place` is its order among what is committed with it.
    """
    unit.execute(
        KEEP_SAID,
        *(message_id, *key.parts, fact.type_name(), fact.model_dump_json(), is_awaited, place),
    )


def forget_said(unit: Unit, task_id: str) -> None:
    """Nothing runs any more that could be told of it. What was found inside stays until its fate is heard of."""
    unit.execute(
        "DELETE FROM said WHERE task_id = $1 "
        "AND (type <> $2 OR NOT EXISTS (SELECT 1 FROM work WHERE kind = $3 AND key = $1))",
        *(task_id, ChildrenFound.type_name(), CONFIRM_CHILDREN),
    )


async def load_events(store: Store, task_id: str, kinds: Collection[str]) -> tuple[list[Message], Mapping[str, int]]:
    """The latest `SAID_MAX` facts of those types that were said of the task, in order; how many of each before them."""
    found = await store.fetch(
        "SELECT type, data::text AS data, recorded_at, place, position FROM said "
        "WHERE task_id = $1 AND type = ANY($2::text[]) ORDER BY recorded_at DESC, place DESC, position DESC LIMIT $3",
        *(task_id, list(kinds), SAID_MAX),
    )
    facts = [BY_TYPE[row["type"]].model_validate_json(row["data"]) for row in reversed(found)]
    if len(found) < SAID_MAX:
        return facts, {}
    first = found[-1]
    earlier = await store.fetch(
        "SELECT type, count(*) AS facts FROM said WHERE task_id = $1 AND type = ANY($2::text[]) "
        "AND (recorded_at, place, position) < ($3, $4, $5) GROUP BY type",
        *(task_id, list(kinds), first["recorded_at"], first["place"], first["position"]),
    )
    return facts, {row["type"]: row["facts"] for row in earlier}


async def load_untold(
    store: Store, task_id: str, kinds: Collection[str], told: Collection[str]
) -> list[tuple[str, Message]]:
    """The first facts of those types that were said of the task and are not among those told, under their ids."""
    found = await store.fetch(
        "SELECT message_id, type, data::text AS data FROM said WHERE task_id = $1 AND type = ANY($2::text[]) "
        "AND message_id <> ALL($3::text[]) ORDER BY recorded_at, place, position LIMIT $4",
        *(task_id, list(kinds), list(told), TOLD_AT_ONCE_MAX),
    )
    return [(row["message_id"], BY_TYPE[row["type"]].model_validate_json(row["data"])) for row in found]


async def load_said(store: Store, key: StageKey) -> list[tuple[str, Message]]:
    """What was said of the stage and is awaited, in order, under the ids that it had.

    Of more than `SAID_MAX` the latest results are left out: an end of the stage names its first ones only.
    """
    found = await store.fetch(
        "SELECT message_id, type, data::text AS data, total FROM (SELECT *, count(*) OVER () AS total FROM said "
        "WHERE task_id = $1 AND attempt = $2 AND stage = $3 AND is_awaited "
        "ORDER BY (type = $4), recorded_at, place, position LIMIT $5) AS kept ORDER BY recorded_at, place, position",
        *(*key.parts, PluginResultProduced.type_name(), SAID_MAX),
    )
    if found and found[0]["total"] > len(found):
        log.warning("results_were_not_said_again", stage=str(key), left_out=found[0]["total"] - len(found))
    return [(row["message_id"], BY_TYPE[row["type"]].model_validate_json(row["data"])) for row in found]


async def has_run(store: Store, run_id: str) -> bool:
    """Whether the run has an outcome already."""
    return await store.fetchrow("SELECT FROM stage_runs WHERE run_id = $1", run_id) is not None


async def load_begun(store: Store, key: StageKey) -> dict[str, str]:
    """Plugins whose run in the stage was said to begin and has no outcome, each with its version."""
    found = await store.fetch(
        "SELECT data->>'plugin' AS plugin, data->>'version' AS version FROM said "
        "WHERE task_id = $1 AND attempt = $2 AND stage = $3 AND type = $4 "
        "AND NOT EXISTS (SELECT FROM stage_runs WHERE run_id = data->>'run_id') ORDER BY place, position",
        *(*key.parts, PluginStarted.type_name()),
    )
    return {row["plugin"]: row["version"] for row in found}


async def load_errors(store: Store, key: StageKey) -> tuple[RunError, ...]:
    """What went wrong in the stage's runs, in the order of names; a run that was not told everything completed."""
    rows = await store.fetch(
        "SELECT plugin, stage, CASE outcome WHEN 'completed' THEN 'failed' ELSE outcome END AS outcome, reason "
        "FROM stage_runs "
        "WHERE task_id = $1 AND attempt = $2 AND stage = $3 AND is_error ORDER BY plugin",
        *key.parts,
    )
    return tuple(RunError(**dict(row)) for row in rows)


async def load_runs(store: Store, task_id: str) -> list[dict[str, Any]]:
    """The runs of the task that have an outcome, in order, each with the length of its log."""
    return await _load_runs(store, "length(log) AS log_chars", "", task_id)


async def load_runs_of(store: Store, task_id: str, plugin: str) -> list[dict[str, Any]]:
    """Those of one plugin, in order, each with its log."""
    return await _load_runs(store, "log", "AND plugin = $3", task_id, plugin)


async def _load_runs(store: Store, log: str, more: str, task_id: str, *plugin: str) -> list[dict[str, Any]]:
    found = await store.fetch(
        f"SELECT attempt, stage, plugin, version, outcome, reason, duration_ms, {log} FROM stage_runs "  # noqa: S608
        f"WHERE task_id = $1 {more} ORDER BY recorded_at, plugin LIMIT $2",  # both are ours
        *(task_id, RUNS_SHOWN_MAX, *plugin),
    )
    return [dict(row) for row in found]


def keep_result(unit: Unit, result: PluginResultProduced) -> None:
    """The result is known to this service as input of later plugins."""
    unit.execute(
        "INSERT INTO produced "
        "(result_id, run_id, task_id, attempt, stage, plugin, name, media_type, sha256, size_bytes, is_truncated) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (result_id) DO NOTHING",
        *(result.result_id, result.run_id, result.task_id, result.attempt, result.stage, result.plugin, result.name),
        *(result.media_type, result.blob.sha256, result.blob.size_bytes, result.is_truncated),
    )


def keep_collected(unit: Unit, key: StageKey, errors: Sequence[RunError]) -> None:
    """All evidence that there is, is durable; nothing more is asked of the guest."""
    unit.execute(
        "UPDATE stages SET collected = $4 WHERE task_id = $1 AND attempt = $2 AND stage = $3",
        *(*key.parts, _ERRORS.dump_json(tuple(errors)).decode()),
    )


def file_late(unit: Unit, result: PluginResultProduced, lease: LeaseRef, term: int) -> None:
    """What a driver brought whose lease another drives by now; it is a result of no task."""
    unit.execute(
        "INSERT INTO late_results (task_id, attempt, stage, machine_id, lease_id, epoch, term, plugin, name, sha256, "
        "size_bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        *(result.task_id, result.attempt, result.stage, lease.machine_id, lease.lease_id, lease.epoch, term),
        *(result.plugin, result.name, result.blob.sha256, result.blob.size_bytes),
    )


async def load_result_ids(store: Store, key: StageKey) -> tuple[str, ...]:
    """Everything that the stage produced, in order."""
    rows = await store.fetch(
        "SELECT result_id FROM produced WHERE task_id = $1 AND attempt = $2 AND stage = $3 ORDER BY position",
        *key.parts,
    )
    return tuple(row["result_id"] for row in rows)


async def load_produced(store: Store, key: StageKey) -> tuple[list[Produced], int]:
    """The first `PRODUCED_MAX` results of the stage, with what is to be known of each; and how many more there are."""
    found = await store.fetch(
        "SELECT result_id, plugin, name, media_type, sha256, size_bytes, count(*) OVER () AS total FROM produced "
        "WHERE task_id = $1 AND attempt = $2 AND stage = $3 ORDER BY position LIMIT $4",
        *(*key.parts, PRODUCED_MAX),
    )
    listed = [Produced(**{name: value for name, value in row.items() if name != "total"}) for row in found]
    return listed, (found[0]["total"] - len(found) if found else 0)


async def load_inputs(store: Store, key: StageKey, following: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """Results of the task so far, those of each other stage's latest attempt, in order; and how many more there are.

    Of this stage what this attempt produced, but for the plugins of `following`: a stage that is run again finds what
    these produced before, which is not for them.
    """
    rows = await store.fetch(
        "SELECT plugin, name, media_type, sha256, is_truncated, count(*) OVER () AS total FROM produced p "
        "WHERE task_id = $1 AND CASE WHEN stage = $3 THEN attempt = $2 AND plugin <> ALL($4::text[]) "
        "ELSE attempt = (SELECT max(attempt) FROM produced WHERE task_id = $1 AND stage = p.stage) END "
        "ORDER BY position LIMIT $5",
        *(*key.parts, list(following), INPUTS_MAX),
    )
    return [dict(row) for row in rows], (rows[0]["total"] - len(rows) if rows else 0)


def keep_prepared(unit: Unit, task_id: str, prepared: Prepared) -> None:
    """What the sample is, is settled for all stages of the task."""
    unit.execute(
        "INSERT INTO prepared (task_id, package, platform, name, sha256, container, listing, mime, "
        "is_locked) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (task_id) DO NOTHING",
        *(task_id, prepared.package, prepared.platform, prepared.name, prepared.sha256, prepared.container),
        *(prepared.listing, prepared.mime, prepared.is_locked),
    )


def keep_pins(unit: Unit, task_id: str, plan: Plan) -> None:
    """The versions that the plan pins stay, unless its task ended before this was heard."""
    runs = tuple(run.model_copy(update={"config": {}}) for run in plan.runs)
    unit.execute(
        "INSERT INTO pins (task_id, runs) VALUES ($1, $2) ON CONFLICT (task_id) DO NOTHING",
        *(task_id, _RUNS.dump_json(runs).decode()),
    )


def end_pins(unit: Unit, task_id: str) -> None:
    """The plan of the task pins nothing any more."""
    unit.execute(
        "INSERT INTO pins (task_id, runs, ended_at) VALUES ($1, '[]', now()) "
        "ON CONFLICT (task_id) DO UPDATE SET runs = '[]', ended_at = now()",
        task_id,
    )


async def load_pins(store: Store) -> list[PlannedRun]:
    """Every version that the plan of a task that goes on pins, without configuration. Most plans are the same."""
    found = await store.fetch("SELECT DISTINCT runs::text AS runs FROM pins WHERE ended_at IS NULL")
    return [run for row in found for run in _RUNS.validate_json(row["runs"])]


async def load_prepared(store: Store, task_id: str) -> Prepared | None:
    """What the sample is, if it is settled."""
    row = await store.fetchrow(
        "SELECT package, platform, name, sha256, container, listing, mime, is_locked FROM prepared WHERE task_id = $1",
        task_id,
    )
    return None if row is None else Prepared(**dict(row))
