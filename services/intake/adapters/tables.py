"""Intake's rows: submissions, and the catalogue that the handlers keep."""

import contextlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import asyncpg
import orjson
import structlog

from contracts.blobs import BlobRef
from contracts.ids import uuid_of
from contracts.intake import TaskCancellationRequested
from contracts.machines import MachineSummary
from contracts.plugins import PluginManifest
from contracts.submission import AnalysisRequest, SampleRef
from services.chassis.store import Conflict, Store, StoreUnavailable
from services.chassis.unit import Unit
from services.intake.app import Submission, SubmittedTask, record
from services.intake.domain.family import Family
from services.intake.policy import Catalogue

log = structlog.get_logger()
COMMIT_TRIES = 3
CATALOGUE_MAX_ROWS = 10_000
PAGE_MAX = 200
PARSED_MAX = 1_000  # rows of the catalogue that were read before are not parsed again

_GONE = (
    "SELECT (SELECT count(*) FROM known_machines WHERE machine IS NULL) AS machines, "
    "(SELECT count(*) FROM known_plugins WHERE manifest IS NULL) AS plugins"
)

_STAMP = (
    "SELECT md5(coalesce(string_agg(line, ',' ORDER BY line COLLATE \"C\"), '')) AS stamp FROM ("
    "SELECT concat_ws(' ', 'plugin', name, hashtextextended(manifest::text, 0)) AS line FROM known_plugins UNION ALL "
    "SELECT concat_ws(' ', 'machine', machine_id, hashtextextended(machine::text, 0)) FROM known_machines) AS known"
)
"""By content, not by who wrote a row last: it is also true of a store that was put back."""


@lru_cache(maxsize=PARSED_MAX)
def _manifest(text: str) -> PluginManifest:
    return PluginManifest.model_validate_json(text)


@lru_cache(maxsize=PARSED_MAX)
def _summary(text: str) -> MachineSummary:
    return MachineSummary.model_validate_json(text)


class Tables:
    """Reads and writes of the service's own schema. Every method raises StoreUnavailable."""

    def __init__(self, store: Store, unit: Callable[[], Unit]) -> None:
        self._store = store
        self._unit = unit
        self._read: tuple[str, Catalogue] | None = None

    async def catalogue(self) -> Catalogue:
        """The plugins and machines that may be asked for, as they are now: read again only where they changed."""
        stamp = await self._stamp()
        if self._read is not None and self._read[0] == stamp:
            return self._read[1]
        catalogue = await self._catalogue()
        if await self._stamp() == stamp:  # otherwise it may be of neither moment, and is not remembered
            self._read = stamp, catalogue
        return catalogue

    async def _stamp(self) -> str:
        (known,) = await self._store.fetch(_STAMP)
        stamp: str = known["stamp"]
        return stamp

    async def _catalogue(self) -> Catalogue:
        plugins = await self._store.fetch(
            "SELECT manifest::text, count(*) OVER () AS known FROM known_plugins "
            "WHERE manifest IS NOT NULL ORDER BY name LIMIT $1",
            CATALOGUE_MAX_ROWS,
        )
        machines = await self._store.fetch(
            "SELECT machine::text, count(*) OVER () AS known FROM known_machines "
            "WHERE machine IS NOT NULL ORDER BY machine_id LIMIT $1",
            CATALOGUE_MAX_ROWS,
        )
        (gone,) = await self._store.fetch(_GONE)
        manifests = [_manifest(row["manifest"]) for row in plugins]
        summaries = [_summary(row["machine"]) for row in machines]
        catalogue = Catalogue(
            plugins={manifest.name: manifest for manifest in manifests},
            machines={summary.machine_id: summary for summary in summaries},
            machines_retired=gone["machines"],
            plugins_withdrawn=gone["plugins"],
            plugins_unread=plugins[0]["known"] - len(plugins) if plugins else 0,
            machines_unread=machines[0]["known"] - len(machines) if machines else 0,
        )
        if catalogue.unread:
            log.warning("catalogue_was_cut", plugins=catalogue.plugins_unread, machines=catalogue.machines_unread)
        return catalogue

    async def add(self, submission: Submission) -> Submission:
        """The submission is durable, and what it says will be said; or the one that already stands under its id or key.

        A reply that was lost on the way is asked for again: the id is the same, so nothing is done twice.
        """
        for attempt in range(1, COMMIT_TRIES + 1):
            unit = self._unit()
            record(submission, unit)
            try:
                await self._store.commit(unit)
            except asyncpg.UniqueViolationError:
                return await self._standing(submission)
            except StoreUnavailable:
                if attempt == COMMIT_TRIES:
                    raise
            else:
                return submission
        raise StoreUnavailable

    async def find(self, submission_id: str) -> Submission | None:
        """The submission of that id."""
        return await find_submission(self._store, submission_id)

    async def find_by_key(self, owner: str, key: str) -> Submission | None:
        """The submission that the owner made under that idempotency key."""
        row = await self._store.fetchrow(
            "SELECT *, tasks::text AS tasks_json FROM submissions WHERE owner = $1 AND idempotency_key = $2",
            owner,
            key,
        )
        return None if row is None else _submission(row)

    async def page(self, *, owner: str | None, before: int | None, limit: int) -> tuple[list[Submission], int | None]:
        """The newest submissions (of one owner, or of all) older than the mark, and the mark of the next page."""
        rows = await self._store.fetch(
            "SELECT *, tasks::text AS tasks_json FROM submissions WHERE ($1::text IS NULL OR owner = $1) "
            "AND ($2::bigint IS NULL OR position < $2) ORDER BY position DESC LIMIT $3",
            owner,
            before,
            min(limit, PAGE_MAX) + 1,
        )
        shown = rows[: min(limit, PAGE_MAX)]
        following = shown[-1]["position"] if len(rows) > len(shown) else None
        return [_submission(row) for row in shown], following

    async def children(self, submission: Submission) -> tuple[SubmittedTask, ...]:
        """The tasks of what was found inside."""
        family = await find_family(self._store, submission.submission_id)
        return () if family is None else submission.children(family)

    async def request_cancellation(self, submission: Submission, by: str) -> None:
        """Every task of the submission is asked to end, and none is made any more. Raises StoreUnavailable."""
        for _ in range(COMMIT_TRIES):
            unit = self._unit()
            family = await find_family(self._store, submission.submission_id) or submission.family(unit.at)
            family.close(by, unit.at)
            unit.save(family)
            for task_id in family.members:
                unit.say(TaskCancellationRequested(task_id=task_id, by=by, reason="its submission was cancelled"))
            with contextlib.suppress(Conflict):  # what was found inside became tasks just now
                await self._store.commit(unit)
                return
        raise StoreUnavailable

    async def _standing(self, submission: Submission) -> Submission:
        standing = await self.find(submission.submission_id)
        if standing is None and submission.idempotency_key is not None:
            standing = await self.find_by_key(submission.owner, submission.idempotency_key)
        if standing is None:
            raise StoreUnavailable("a submission conflicts with one that cannot be found")
        return standing


async def find_family(store: Store, submission_id: str) -> Family | None:
    """All tasks of the submission, if anything was decided about them. Raises StoreUnavailable."""
    return await store.load(Family, uuid_of(submission_id))


async def find_submission(store: Store, submission_id: str) -> Submission | None:
    """The submission of that id. Raises StoreUnavailable."""
    row = await store.fetchrow(
        "SELECT *, tasks::text AS tasks_json FROM submissions WHERE submission_id = $1", submission_id
    )
    return None if row is None else _submission(row)


def _submission(row: Any) -> Submission:
    tasks = orjson.loads(row["tasks_json"])
    return Submission(
        submission_id=row["submission_id"],
        owner=row["owner"],
        idempotency_key=row["idempotency_key"],
        fingerprint=row["fingerprint"],
        sample=SampleRef(blob=BlobRef(sha256=row["sha256"], size_bytes=row["size_bytes"]), name=row["name"]),
        name_sent=row["name_sent"],
        submitted_at=row["submitted_at"],
        tasks=tuple(SubmittedTask(task["task_id"], AnalysisRequest.model_validate(task["request"])) for task in tasks),
    )
