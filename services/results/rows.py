"""The service's own tables: every statement on them stands here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from asyncpg import Record

from contracts.ids import derived
from contracts.intake import ChildrenChosen
from contracts.machines import CaptureStored
from contracts.plugins import PluginResultProduced
from contracts.results import ReportReady
from contracts.scheduler import NameResults, SealReport
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.results.domain.result import Result

RESULTS_PER_TASK_MAX = 4096
PARENTS_MAX = 1000
NETWORK, PCAP = "network", "application/vnd.tcpdump.pcap"
_SELECT = (
    "SELECT position, result_id, task_id, attempt, stage, plugin, version, run_id, name, kind, media_type, sha256, "
    "size_bytes, path, is_truncated, recorded_at, title FROM results "
)
_REPORTS = (
    "SELECT r.task_id, coalesce(v.verdict, r.verdict) AS verdict, coalesce(v.score, r.score) AS score, "
    "coalesce(v.sha256, r.sha256) AS sha256, coalesce(v.size_bytes, r.size_bytes) AS size_bytes, r.missing, "
    "r.missing_more, coalesce(v.revision, 0) AS revision FROM reports r "
    "LEFT JOIN report_revisions v ON v.task_id = r.task_id"
)
TERMINAL = ("completed", "failed", "timed_out", "cancelled", "unserviceable")


def storable(text: str) -> str:
    """The text without NUL characters, which PostgreSQL cannot hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def remember_task(unit: Unit, task_id: str, owner: str) -> None:
    """The task's owner is known."""
    unit.execute(
        "INSERT INTO tasks (task_id, owner, changed_at) VALUES ($1, $2, $3) "
        "ON CONFLICT (task_id) DO UPDATE SET owner = excluded.owner",
        task_id,
        storable(owner),
        unit.at,
    )


def remember_state(unit: Unit, task_id: str, state: str) -> None:
    """The task is in that state; an ended one stays ended, whatever arrives late."""
    unit.execute(
        "INSERT INTO tasks (task_id, state, changed_at) VALUES ($1, $2, $3) ON CONFLICT (task_id) DO UPDATE "
        "SET state = excluded.state, changed_at = excluded.changed_at WHERE tasks.state <> ALL($4::text[])",
        task_id,
        state,
        unit.at,
        list(TERMINAL),
    )


def remember_result(unit: Unit, fact: PluginResultProduced) -> None:
    """The result is recorded; a second record of the same id changes nothing."""
    unit.execute(
        "INSERT INTO results (result_id, task_id, attempt, stage, plugin, version, run_id, name, kind, media_type, "
        "sha256, size_bytes, path, is_truncated, recorded_at, title) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, "
        "$11, $12, $13, $14, $15, $16) ON CONFLICT (result_id) DO NOTHING",
        fact.result_id,
        fact.task_id,
        fact.attempt,
        fact.stage,
        fact.plugin,
        storable(fact.version),
        fact.run_id,
        storable(fact.name),
        fact.kind,
        storable(fact.media_type),
        fact.blob.sha256,
        fact.blob.size_bytes,
        None if fact.path is None else storable(fact.path),
        fact.is_truncated,
        unit.at,
        storable(fact.title),
    )


def remember_capture(unit: Unit, fact: CaptureStored) -> None:
    """The record of packets is a result of the task, of as late an attempt as there are records before it."""
    unit.execute(
        "INSERT INTO results (result_id, task_id, attempt, stage, plugin, version, run_id, name, kind, media_type, "
        "sha256, size_bytes, path, is_truncated, recorded_at) "
        "SELECT $1::text, $2::text, count(*) + 1, 'guest', $3::text, '1', $4::text, 'capture.pcap', 'bytes', $5::text, "
        "$6::text, $7::bigint, NULL, $8::boolean, $9::timestamptz "
        "FROM results WHERE task_id = $2 AND plugin = $3 ON CONFLICT (result_id) DO NOTHING",
        derived("res", "capture", fact.lease_id),
        fact.task_id,
        NETWORK,
        derived("run", "capture", fact.lease_id),
        PCAP,
        fact.blob.sha256,
        fact.blob.size_bytes,
        fact.is_truncated,
        unit.at,
    )


def remember_departure(unit: Unit, task_id: str, machine_id: str, epoch: int) -> None:
    """The machine is clean of the task, or out of the pool; nothing more comes from it."""
    unit.execute(
        "INSERT INTO departures (task_id, machine_id, epoch, left_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        task_id,
        machine_id,
        epoch,
        unit.at,
    )


async def is_capture_due(store: Store, seal: SealReport) -> bool:
    """Whether a record of packets may still come: the sample had a network, and its last machine has it still."""
    if seal.request.route == "none" or seal.machine_id is None:
        return False
    row = await store.fetchrow(
        "SELECT (SELECT count(*) FROM results WHERE task_id = $1 AND plugin = $2) AS records, "
        "(SELECT count(*) FROM departures WHERE task_id = $1) AS departures",
        seal.task_id,
        NETWORK,
    )
    return row is not None and max(row["records"], row["departures"]) < seal.attempts


def remember_seal(unit: Unit, command: SealReport) -> None:
    """The order is recorded. A later one for the same task takes its place, the waiting time counts from the first."""
    unit.execute(
        "INSERT INTO seals (task_id, command, ordered_at) VALUES ($1, $2, $3) "
        "ON CONFLICT (task_id) DO UPDATE SET command = excluded.command",
        command.task_id,
        command.model_dump_json().encode(),
        unit.at,
    )


def remember_named(unit: Unit, command: NameResults) -> None:
    """Those results are named, too; the same part again changes nothing."""
    unit.execute(
        "INSERT INTO named_results (task_id, part, result_ids, named_at) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (task_id, part) DO NOTHING",
        command.task_id,
        command.part,
        list(command.result_ids),
        unit.at,
    )


async def named_by(store: Store, seal: SealReport) -> tuple[str, ...]:
    """The results that are to be in the report, in order: those in the order, and those named beside it until now."""
    if not seal.more_results:
        return seal.result_ids
    found = await store.fetch(
        "SELECT result_ids FROM named_results WHERE task_id = $1 ORDER BY part LIMIT $2",
        seal.task_id,
        RESULTS_PER_TASK_MAX,
    )
    return (*seal.result_ids, *(result_id for row in found for result_id in row["result_ids"]))


def remember_report(unit: Unit, ready: ReportReady) -> None:
    """The report is sealed: the first one stays."""
    unit.execute(
        "INSERT INTO reports (task_id, verdict, score, sha256, size_bytes, missing, missing_more, sealed_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (task_id) DO NOTHING",
        ready.task_id,
        ready.verdict,
        ready.score,
        ready.report.sha256,
        ready.report.size_bytes,
        list(ready.missing_results),
        ready.missing_more,
        unit.at,
    )


async def report_of(store: Store, task_id: str) -> ReportReady | None:
    """The sealed report of a task, as it was announced."""
    row = await store.fetchrow(
        f"{_REPORTS} WHERE r.task_id = $1 ORDER BY revision DESC LIMIT 1",
        task_id,
    )
    if row is None:
        return None
    return ReportReady.model_validate(
        {
            "task_id": task_id,
            "verdict": row["verdict"],
            "score": row["score"],
            "report": {"sha256": row["sha256"], "size_bytes": row["size_bytes"]},
            "missing_results": row["missing"],
            "missing_more": row["missing_more"],
            "revision": row["revision"],
        }
    )


def remember_revision(unit: Unit, revised: ReportReady) -> None:
    """The report is this one from now on; the earlier ones stay. Of two with one number, one cannot be committed."""
    unit.execute(
        "INSERT INTO report_revisions (task_id, revision, verdict, score, sha256, size_bytes, sealed_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        revised.task_id,
        revised.revision,
        revised.verdict,
        revised.score,
        revised.report.sha256,
        revised.report.size_bytes,
        unit.at,
    )


def remember_children(unit: Unit, fact: ChildrenChosen) -> None:
    """What became of the files found inside the task's sample is known; it is decided once."""
    unit.execute(
        "INSERT INTO children (task_id, chosen) VALUES ($1, $2) ON CONFLICT (task_id) DO NOTHING",
        fact.task_id,
        fact.model_dump_json().encode(),
    )
    for child in dict.fromkeys(child.task_id for child in fact.children if child.task_id):
        unit.execute(
            "INSERT INTO contained (child, task_id) VALUES ($1, $2) ON CONFLICT (child, task_id) DO NOTHING",
            child,
            fact.task_id,
        )


async def children_of(store: Store, task_id: str) -> ChildrenChosen | None:
    """What became of the files found inside the task's sample, if that is known."""
    row = await store.fetchrow("SELECT chosen FROM children WHERE task_id = $1", task_id)
    return None if row is None else ChildrenChosen.model_validate_json(row["chosen"])


async def parents_of(store: Store, task_id: str) -> list[str]:
    """The tasks inside whose samples this one's was found."""
    found = await store.fetch("SELECT task_id FROM contained WHERE child = $1 LIMIT $2", task_id, PARENTS_MAX)
    return [row["task_id"] for row in found]


async def verdicts_of(store: Store, task_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """What those of the tasks were judged to be whose reports are sealed."""
    found = await store.fetch(f"{_REPORTS} WHERE r.task_id = ANY($1::text[]) ORDER BY revision", list(task_ids))
    return {row["task_id"]: (row["verdict"], row["score"]) for row in found}


async def is_seal_waiting(store: Store, task_id: str) -> bool:
    """Whether a report was ordered and is not sealed."""
    row = await store.fetchrow(
        "SELECT 1 FROM seals WHERE task_id = $1 AND NOT EXISTS (SELECT FROM reports WHERE task_id = $1)", task_id
    )
    return row is not None


async def results_named(store: Store, result_ids: tuple[str, ...]) -> list[Result]:
    """Those of the results that are recorded, in the order in which they are named: a report is reproducible."""
    rows = await store.fetch(
        _SELECT + "WHERE result_id = ANY($1::text[]) ORDER BY array_position($1::text[], result_id) LIMIT $2",
        list(result_ids),
        RESULTS_PER_TASK_MAX,
    )
    return [_result(row) for row in rows]


async def captures_of(store: Store, task_id: str) -> list[Result]:
    """The records of packets that machines took for the task."""
    rows = await store.fetch(
        _SELECT + "WHERE task_id = $1 AND plugin = $2 ORDER BY position LIMIT $3",
        task_id,
        NETWORK,
        RESULTS_PER_TASK_MAX,
    )
    return [_result(row) for row in rows]


async def result_of(store: Store, result_id: str) -> Result | None:
    """One result."""
    row = await store.fetchrow(_SELECT + "WHERE result_id = $1", result_id)
    return None if row is None else _result(row)


async def results_page(
    store: Store, task_id: str, *, kinds: tuple[str, ...], after: int, limit: int
) -> tuple[list[Result], int | None]:
    """A page of a task's results, and where the next one begins."""
    rows = await store.fetch(
        _SELECT + "WHERE task_id = $1 AND kind = ANY($2::text[]) AND position > $3 ORDER BY position LIMIT $4",
        task_id,
        list(kinds),
        after,
        limit + 1,
    )
    page = rows[:limit]
    return [_result(row) for row in page], (page[-1]["position"] if len(rows) > limit else None)


def _result(row: Record) -> Result:
    return Result(**{name: value for name, value in row.items() if name != "position"})


@dataclass(frozen=True)
class KnownTask:
    """Whose a task is, and how far it is."""

    owner: str | None
    state: str
    changed_at: datetime


async def task_of(store: Store, task_id: str) -> KnownTask | None:
    """What is known of the task itself."""
    row = await store.fetchrow("SELECT owner, state, changed_at FROM tasks WHERE task_id = $1", task_id)
    return None if row is None else KnownTask(**row)


async def seal_of(store: Store, task_id: str) -> tuple[SealReport, datetime] | None:
    """The order to seal, and since when it stands."""
    row = await store.fetchrow("SELECT command, ordered_at FROM seals WHERE task_id = $1", task_id)
    return None if row is None else (SealReport.model_validate_json(row["command"]), row["ordered_at"])
