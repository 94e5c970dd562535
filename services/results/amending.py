"""Keeps a sealed report true to what is inside its sample: when a child is judged, its parent is judged again.

A revision is one blob and one row. What triggers it is work that begins after the trigger was committed: whichever of
the child's report and the word that it is a child comes last, is seen by the look that the last of them ordered.
"""

from collections.abc import Sequence

import asyncpg
import structlog

from contracts.ids import derived
from contracts.results import ReportReady, VerdictChanged
from services.chassis.blobs import BlobStore
from services.chassis.store import Conflict, Store
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.results import rows
from services.results.assembly.inside import with_children
from services.results.domain.report import Child, Report
from services.results.handlers import AMEND, TELL, amend, tell_parents
from services.results.policy.contained import is_of_contained

REPORT_MAX_BYTES = 64 * 1024 * 1024
FAILURES_MAX = 100
log = structlog.get_logger()


class Amender:
    """Does the work `amend` and `tell`."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def runners(self) -> tuple[Runner, ...]:
        """The runners of this work."""
        return (
            Runner(AMEND, self.amend, self.give_up, concurrency=1, attempts_max=FAILURES_MAX),
            Runner(TELL, self.tell, self.give_up, concurrency=1, attempts_max=FAILURES_MAX),
        )

    async def tell(self, item: WorkItem, context: WorkContext) -> None:
        """Every task inside whose sample this one's was found is looked at again."""
        parents = await rows.parents_of(context.store, str(item.payload["task_id"]))

        async def decide(unit: Unit) -> None:
            for parent in parents:
                amend(unit, parent)

        await context.commit(decide, finish=True)

    async def amend(self, item: WorkItem, context: WorkContext) -> None:
        """The report says what is known of the task's children by now. One that is not sealed yet will."""
        task_id = str(item.payload["task_id"])
        ready = await rows.report_of(context.store, task_id)
        found = await children_of(context.store, task_id)
        if ready is None or found is None:
            return
        children, left_out = found
        content = await self._blobs.read(ready.report.sha256, limit_bytes=REPORT_MAX_BYTES)
        before = Report.model_validate_json(content)
        after = with_children(before, children, left_out=left_out)
        if after == before:
            return
        blob = await self._blobs.put_bytes(after.to_json())
        revised = ReportReady(
            task_id=task_id,
            verdict=after.verdict,
            score=after.score,
            report=blob,
            missing_results=ready.missing_results,
            missing_more=ready.missing_more,
            revision=ready.revision + 1,
        )
        log.info("report_amended", task_id=task_id, verdict=after.verdict, score=after.score)
        await self._commit(ready, revised, _why(after), context)

    async def give_up(self, item: WorkItem, _context: WorkContext, error: Exception) -> None:
        """The report stays as it is; a later child has it looked at again."""
        log.error("report_was_not_amended", task_id=item.payload.get("task_id"), reason=str(error))

    async def _commit(self, before: ReportReady, revised: ReportReady, why: str, context: WorkContext) -> None:
        async def decide(unit: Unit) -> None:
            rows.remember_revision(unit, revised)
            if (before.verdict, before.score) == (revised.verdict, revised.score):
                return
            changed = VerdictChanged(
                task_id=revised.task_id,
                verdict=revised.verdict,
                score=revised.score,
                report=revised.report,
                revision=revised.revision,
                reason=why,
            )
            unit.say(changed, message_id=derived("msg", "verdict-changed", revised.task_id, revised.revision))
            tell_parents(unit, revised.task_id)

        try:
            await context.commit(decide, finish=True)
        except asyncpg.UniqueViolationError as error:
            raise Conflict(f"another revision of the report of {revised.task_id} came first") from error


async def children_of(store: Store, task_id: str) -> tuple[Sequence[Child], int] | None:
    """The children of the task with what they were judged to be until now; None while nothing is known of any."""
    chosen = await rows.children_of(store, task_id)
    if chosen is None:
        return None
    judged = await rows.verdicts_of(store, [child.task_id for child in chosen.children if child.task_id])
    children = []
    for child in chosen.children:
        verdict, score = judged.get(child.task_id or "", (None, None))
        children.append(Child.model_validate({**child.model_dump(), "verdict": verdict, "score": score}))
    return children, chosen.left_out


def _why(report: Report) -> str:
    words = [reason.why for reason in report.reasons if is_of_contained(reason)]
    return "; ".join(words)[:1000] or "nothing that was found inside counts any more"
