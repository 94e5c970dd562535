"""Seals reports: every result that the order names is recorded and its bytes are in the store, then the report is.

Safe to repeat: the report is one blob and one row, and the row is written with the announcement. A result that is not
there yet makes the work wait; one that is still not there when patience ends is named in the report as lost.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from contracts.limits import RESULTS_NAMED_MAX
from contracts.results import ReportReady
from services.chassis.blobs import BlobMissing, BlobStore
from services.chassis.errors import PermanentError
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.results import rows
from services.results.amending import children_of
from services.results.assembly import assemble
from services.results.assembly.inside import with_children
from services.results.domain.bounds import INPUT_MAX_BYTES, PREVIEW_MAX_BYTES
from services.results.domain.case import Case
from services.results.domain.report import Report
from services.results.domain.result import Result
from services.results.handlers import SEAL, amend, say_ready, tell_parents

CONTENTS_MAX_BYTES = 64 * 1024 * 1024
PREVIEWED = frozenset({"stdout", "stderr"})
FIRST_WAIT_S = 0.25
WAIT_MAX_S = 5.0
SEALS_AT_ONCE = 2
FAILURES_MAX = 1000
log = structlog.get_logger()


class Sealer:
    """Does the work `seal`, one task at a time."""

    def __init__(self, blobs: BlobStore, *, patience_s: float) -> None:
        self._blobs = blobs
        self._patience = timedelta(seconds=patience_s)

    def runner(self) -> Runner:
        """The runner of this work. A store that is away is waited for: a task is not complete without its report."""
        return Runner(SEAL, self.run, self.give_up, concurrency=SEALS_AT_ONCE, attempts_max=FAILURES_MAX)

    async def run(self, item: WorkItem, context: WorkContext) -> None:
        """The report is sealed and announced, or the work waits for what is missing."""
        task_id = str(item.payload["task_id"])
        order = await rows.seal_of(context.store, task_id)
        if order is None or await rows.report_of(context.store, task_id) is not None:
            return  # sealed, and announced, since this was put down
        seal, ordered_at = order
        result_ids = await rows.named_by(context.store, seal)
        unnamed = max(0, len(seal.result_ids) + seal.more_results - len(result_ids))
        named = await rows.results_named(context.store, result_ids)
        # asked before the records are read: one that comes in between would be neither due nor among them
        is_capture_due = await rows.is_capture_due(context.store, seal)
        captures = await rows.captures_of(context.store, task_id)
        missing = await self._missing((*result_ids, *(one.result_id for one in captures)), [*named, *captures])
        is_early = bool(missing or unnamed) or is_capture_due
        if is_early and min(context.clock.now() - ordered_at, _waited_at_least(item.attempt)) < self._patience:
            log.info("report_waits_for_results", missing=len(missing) + unnamed)
            await context.reschedule(_wait_s(item.attempt))
            return
        case = Case(seal, context.clock.now(), (*named, *captures), {}, {}, missing, unnamed=unnamed)
        report = await asyncio.to_thread(_assembled, await self._with_contents(case))
        found = await children_of(context.store, task_id)
        if found is not None:
            report = with_children(report, found[0], left_out=found[1])
        await self._announce(await self._seal(report, unnamed), case, context)

    async def give_up(self, item: WorkItem, _context: WorkContext, error: Exception) -> None:
        """The order stays recorded; a repeated order begins again."""
        log.error("report_was_not_sealed", task_id=item.payload.get("task_id"), reason=str(error))

    async def _announce(self, ready: ReportReady, case: Case, context: WorkContext) -> None:
        async def decide(unit: Unit) -> None:
            rows.remember_report(unit, ready)
            say_ready(unit, ready)
            if case.has_children:
                amend(unit, ready.task_id)
            if case.seal.parent is not None:
                tell_parents(unit, ready.task_id)

        await context.commit(decide, finish=True)

    async def _missing(self, result_ids: Sequence[str], results: list[Result]) -> dict[str, str]:
        """Why each result that was announced and cannot be had cannot, by its id."""
        recorded = {result.result_id: result for result in results}
        missing: dict[str, str] = {}
        for result_id in result_ids:
            result = recorded.get(result_id)
            if result is None:
                missing[result_id] = "the result was announced and never arrived"
            elif (size := await self._blobs.size(result.sha256)) is None:
                missing[result_id] = f"its {result.size_bytes} bytes are not in the object store"
            elif size != result.size_bytes:
                missing[result_id] = f"the object store holds {size} of its {result.size_bytes} bytes"
        return missing

    async def _with_contents(self, case: Case) -> Case:
        """The case with the bytes of its JSON results, within a budget, and the beginning of what was printed."""
        left = CONTENTS_MAX_BYTES
        for result in case.results:
            if result.result_id in case.missing:
                continue
            if result.name in PREVIEWED and result.kind == "bytes":
                case.previews[result.result_id] = await self._beginning(result)
            if result.kind != "json":
                continue
            if result.size_bytes > min(left, INPUT_MAX_BYTES):
                case.unreadable[result.result_id] = f"{result.size_bytes} bytes are more than a report can read"
                continue
            try:
                case.contents[result.result_id] = await self._read(result)
            except PermanentError as error:
                case.missing[result.result_id] = str(error)
            left -= result.size_bytes
        return case

    async def _beginning(self, result: Result) -> bytes:
        stream = self._blobs.stream(result.sha256, end=PREVIEW_MAX_BYTES)
        return b"".join([chunk async for chunk in stream])

    async def _read(self, result: Result) -> bytes:
        content = await self._blobs.read(result.sha256, limit_bytes=result.size_bytes)
        if hashlib.sha256(content).hexdigest() != result.sha256:
            raise BlobMissing("its bytes in the object store are not those that were recorded")
        return content

    async def _seal(self, report: Report, unnamed: int) -> ReportReady:
        blob = await self._blobs.put_bytes(report.to_json())
        missing = report.missing_results
        log.info("report_sealed", verdict=report.verdict, score=report.score, errors=len(report.errors))
        return ReportReady(
            task_id=report.task.task_id,
            verdict=report.verdict,
            score=report.score,
            report=blob,
            missing_results=missing[:RESULTS_NAMED_MAX],
            missing_more=len(missing[RESULTS_NAMED_MAX:]) + unnamed,
        )


def _wait_s(attempt: int) -> float:
    """How long a report waits after that many looks."""
    return min(float(FIRST_WAIT_S * 2 ** min(attempt, 10)), WAIT_MAX_S)


def _waited_at_least(attempt: int) -> timedelta:
    """What so many looks take: a clock that was set forward does not use up patience that was never had."""
    return timedelta(seconds=sum(_wait_s(earlier) for earlier in range(1, attempt)))


def _assembled(case: Case) -> Report:
    """The report; should a result bring a defect of ours to light, the report without any result's content."""
    try:
        return assemble(case)
    except Exception:  # evidence is hostile: one strange result must not cost the whole report
        log.exception("report_could_not_be_assembled")
        reason = "the report could not be made with the contents of the results; the fault was logged"
        return assemble(replace(case, contents={}, unreadable=dict.fromkeys(case.contents, reason) | case.unreadable))
