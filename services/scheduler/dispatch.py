"""Brings waiting tasks and ready machines together, one pick at a time; whose turn it is, `policy/turns.py` says."""

import structlog

from contracts.ids import uuid_of
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.scheduler import waiting
from services.scheduler.app import DISPATCH, record
from services.scheduler.domain.task import NotPossible, Task

PICKS_MAX = 1000

log = structlog.get_logger()


async def dispatch(_item: WorkItem, context: WorkContext) -> None:
    """Every ready machine that some waiting task may have is asked for."""
    await context.store.fetch("DELETE FROM work WHERE kind = $1 AND claimed_pid IS NULL AND due_at <= now()", DISPATCH)
    for _ in range(PICKS_MAX):
        pick = await waiting.pick(context.store)
        if pick is None:
            return
        await _match(context, *pick)


async def _match(context: WorkContext, task_id: str, machine_id: str, host: str, epoch: int) -> None:
    async def decide(unit: Unit) -> None:
        task = await context.store.load(Task, uuid_of(task_id))
        if task is None:
            unit.execute("SELECT stand_aside($1, '')", task_id)
            return
        try:
            task.match(machine_id, host, unit.at)
        except NotPossible as reason:
            log.info("match_was_overtaken", task=task_id, reason=str(reason))
            waiting.seat(unit, task)
            return
        unit.execute(
            "UPDATE pool SET is_ready = false, condition = 'leased' WHERE machine_id = $1 AND epoch = $2",
            machine_id,
            epoch,
        )
        record(unit, task)

    await context.commit(decide)


RUNNER = Runner(DISPATCH, dispatch, concurrency=1, attempts_max=1000)
