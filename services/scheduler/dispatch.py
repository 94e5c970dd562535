"""Brings waiting tasks and ready machines together. The order is priority, then age; each pick is one index look-up."""

import structlog

from contracts.ids import uuid_of
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.scheduler.app import DISPATCH, record
from services.scheduler.domain.task import NotPossible, Task

PICKS_MAX = 1000

log = structlog.get_logger()


async def dispatch(_item: WorkItem, context: WorkContext) -> None:
    """Every ready machine that some waiting task may have is asked for."""
    await context.store.fetch(
        "DELETE FROM work WHERE kind = $1 AND claimed_until IS NULL AND due_at <= now()", DISPATCH
    )
    for _ in range(PICKS_MAX):
        pick = await _pick(context.store)
        if pick is None:
            return
        await _match(context, *pick)


async def _pick(store: Store) -> tuple[str, str, str, int] | None:
    """(task, machine, host, machine's epoch) of the next match, or None."""
    row = await store.fetchrow(
        """
        SELECT q.task_id, p.machine_id, p.host, p.epoch
        FROM pool p CROSS JOIN LATERAL (
            SELECT task_id, priority, queued_at FROM queue
            WHERE profile = p.profile AND (machine_id IS NULL OR machine_id = p.machine_id) AND route = ANY(p.routes)
            ORDER BY priority DESC, queued_at LIMIT 1) q
        WHERE p.is_ready ORDER BY q.priority DESC, q.queued_at, p.machine_id LIMIT 1
        """
    )
    return None if row is None else (row["task_id"], row["machine_id"], row["host"], row["epoch"])


async def _match(context: WorkContext, task_id: str, machine_id: str, host: str, epoch: int) -> None:
    async def decide(unit: Unit) -> None:
        task = await context.store.load(Task, uuid_of(task_id))
        unit.execute("DELETE FROM queue WHERE task_id = $1", task_id)
        if task is None:
            return
        try:
            task.match(machine_id, host, unit.at)
        except NotPossible as reason:
            log.info("match_was_overtaken", task=task_id, reason=str(reason))
            return
        unit.execute("UPDATE pool SET is_ready = false WHERE machine_id = $1 AND epoch = $2", machine_id, epoch)
        record(unit, task)

    await context.commit(decide)


RUNNER = Runner(DISPATCH, dispatch, concurrency=1, attempts_max=1000)
