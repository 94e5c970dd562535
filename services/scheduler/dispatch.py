"""Brings waiting tasks and ready machines together, one pick at a time; whose turn it is, `policy/turns.py` says.

Who waits and who is ready stands in the store, so that nothing has to be remembered of a wish to look: the process
that committed one looks at once, and every process looks now and then for what another could not do any more.
"""

import asyncio

import structlog

from contracts.ids import uuid_of
from services.chassis.errors import TransientError
from services.chassis.patience import until_woken
from services.chassis.run import Runtime
from services.chassis.store import UNAVAILABLE, Conflict
from services.chassis.unit import Unit
from services.scheduler import waiting
from services.scheduler.app import DISPATCH, record
from services.scheduler.domain.task import NotPossible, Task

PICKS_MAX = 1000
IDLE_POLL_S = 2.0
RETRY_S = 0.5

log = structlog.get_logger()


class Dispatcher:
    """Looks for matches. Any number may look at once: what they decide is appended to the version they decided on."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._wake = asyncio.Event()
        runtime.store.on_commit(self._on_commit)

    @property
    def is_wanted(self) -> bool:
        """Whether something changed here since the last look began."""
        return self._wake.is_set()

    async def run(self) -> None:
        """Looks until cancelled, through any number of database failures."""
        while True:
            try:
                await self.look()
            except (TransientError, *UNAVAILABLE) as error:
                log.warning("dispatch_was_interrupted", reason=repr(error))
                await asyncio.sleep(RETRY_S)
            except Exception:  # a defect of ours: the next look is due
                log.exception("dispatch_failed")
                await asyncio.sleep(RETRY_S)
            await until_woken(self._wake, IDLE_POLL_S)

    async def look(self) -> None:
        """Every ready machine that some waiting task may have is asked for. Raises StoreUnavailable."""
        self._wake.clear()
        for _ in range(PICKS_MAX):
            pick = await waiting.pick(self._runtime.store)
            if pick is None:
                return
            await self._match(*pick)
        self._wake.set()

    def _on_commit(self, unit: Unit) -> None:
        if DISPATCH in unit.news:
            self._wake.set()

    async def _match(self, task_id: str, machine_id: str, host: str, epoch: int) -> None:
        unit = self._runtime.unit()
        task = await self._runtime.store.load(Task, uuid_of(task_id), unit)
        if task is None:
            unit.execute("SELECT stand_aside($1, '')", task_id)
        else:
            try:
                task.match(machine_id, host, unit.at)
            except NotPossible as reason:
                log.info("match_was_overtaken", task=task_id, reason=str(reason))
                waiting.seat(unit, task)
            else:
                unit.execute(
                    "UPDATE pool SET is_ready = false, condition = 'leased' WHERE machine_id = $1 AND epoch = $2",
                    machine_id,
                    epoch,
                )
                record(unit, task)
        try:
            await self._runtime.store.commit(unit)
        except Conflict:
            log.info("match_was_overtaken", task=task_id, reason="the task went on meanwhile")
