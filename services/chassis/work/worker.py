"""Claims due work, runs it for as long as the claim can be believed in, and records how it went."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from services.chassis.clock import Clock
from services.chassis.crash_points import Point, reached
from services.chassis.errors import TransientError
from services.chassis.patience import until_woken
from services.chassis.store import UNAVAILABLE, Connection, Fenced, Store, StoreUnavailable
from services.chassis.unit import Announce, Unit
from services.chassis.work import claims
from services.chassis.work.items import Runner, WorkContext, WorkItem

RELEASE_TIMEOUT_S = 2.0
BACKOFF_MAX_S = 30.0
_BETWEEN_LOOKS = timedelta(seconds=claims.RENEW_S)

log = structlog.get_logger()


@dataclass
class _Tenure:
    """One item that runs here, and until when its claim is believed in."""

    item: WorkItem
    context: WorkContext
    until: float
    timeout: asyncio.Timeout | None = None

    def extend(self, until: float | None) -> None:
        """The claim is believed in until then; None: it is finished or given back, and nothing more hangs on it."""
        self.until = until if until is not None else self.until
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(until)


class Worker:
    """Claims due work of the kinds it has runners for, and runs it. Instants are those of its event loop's clock."""

    def __init__(
        self, *, service: str, store: Store, clock: Clock, announce: Announce, runners: Mapping[str, Runner]
    ) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._announce = announce
        self._runners = runners
        self._wake = asyncio.Event()
        self._observer = claims.Observer()
        self._running: dict[int, _Tenure] = {}
        self._counts: dict[str, int] = dict.fromkeys(runners, 0)
        store.on_commit(self._on_commit)

    def wake(self) -> None:
        """Due work is looked for at once."""
        self._wake.set()

    def _on_commit(self, unit: Unit) -> None:
        """What is due later is found by the next look."""
        if any(row.due_at - unit.at < _BETWEEN_LOOKS for row in unit.work):
            self._wake.set()

    async def run(self) -> None:
        """Works until cancelled. Without the database nothing is claimed, and what is held ends when its claim does."""
        if not self._runners:
            return
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    async with self._store.pool.acquire(timeout=10) as connection:
                        await self._claim_for_ever(connection, group)
                except (StoreUnavailable, *UNAVAILABLE) as error:
                    log.warning("worker_was_interrupted", reason=repr(error))
                    await asyncio.sleep(0.5)

    async def _claim_for_ever(self, connection: Connection, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        while True:
            self._wake.clear()
            if loop.time() >= look_at:
                look_at = loop.time() + claims.RENEW_S
                await self._renew(connection)
                self._begin(await self._take_abandoned(connection), group)
            claimed, due_s = await self._claim(connection)
            self._begin(claimed, group)  # all that was due, or as much as there is room for
            await until_woken(self._wake, max(0.0, min(due_s, look_at - loop.time())))

    async def _renew(self, connection: Connection) -> None:
        """The claims of what runs here are renewed, and tied to this connection; what is another's by now is ended."""
        sent_at = asyncio.get_running_loop().time()
        held = [(tenure.item.work_id, tenure.item.attempt) for tenure in self._running.values()]
        kept, lost = await claims.renew(connection, held)
        for work_id, tenure in self._running.items():
            if not tenure.context.has_claim:
                tenure.extend(None)
            elif work_id in lost:
                tenure.extend(sent_at)
            elif work_id in kept:
                tenure.extend(sent_at + claims.HELD_S)

    async def _take_abandoned(self, connection: Connection) -> list[_Tenure]:
        """Claims of others that nobody holds any more are ours, as far as there is room."""
        seen = await claims.others(connection, list(self._runners), list(self._running))
        sent_at = asyncio.get_running_loop().time()
        places = {kind: self._places(kind) for kind in self._runners}
        chosen: list[claims.Claim] = []
        for claim in self._observer.abandoned(seen, sent_at):
            if places[claim.kind] > 0:
                places[claim.kind] -= 1
                chosen.append(claim)
        items = await claims.take(connection, chosen) if chosen else []
        if items:
            log.warning("abandoned_work_was_taken", count=len(items))
        return [self._tenure(item, sent_at) for item in items]

    async def _claim(self, connection: Connection) -> tuple[list[_Tenure], float]:
        """What is to run from now on, and how many seconds may pass before anything else is due."""
        places = {kind: count for kind in self._runners if (count := self._places(kind)) > 0}
        if not places:
            return [], claims.RENEW_S
        sent_at = asyncio.get_running_loop().time()
        items, due_s = await claims.claim_due(connection, places, list(self._running))
        if items:
            reached(Point.CLAIM_AFTER)
        return [self._tenure(item, sent_at) for item in items], claims.RENEW_S if due_s is None else max(0.01, due_s)

    def _places(self, kind: str) -> int:
        return self._runners[kind].concurrency - self._counts[kind]

    def _tenure(self, item: WorkItem, sent_at: float) -> _Tenure:
        context = WorkContext(
            item=item, service=self._service, store=self._store, clock=self._clock, announce=self._announce
        )
        return _Tenure(item, context, sent_at + claims.HELD_S)

    def _begin(self, tenures: list[_Tenure], group: asyncio.TaskGroup) -> None:
        """They run."""
        for tenure in tenures:
            item = tenure.item
            self._running[item.work_id] = tenure
            self._counts[item.kind] += 1
            group.create_task(self._attend(tenure), name=f"{item.kind}:{item.key}")

    async def _attend(self, tenure: _Tenure) -> None:
        item = tenure.item
        try:
            with structlog.contextvars.bound_contextvars(work=item.kind, key=item.key, attempt=item.attempt):
                await self._while_held(tenure)
        finally:
            others_wait = self._places(item.kind) == 0
            self._running.pop(item.work_id, None)
            self._counts[item.kind] -= 1
            if others_wait or not tenure.context.is_done:
                self._wake.set()

    async def _while_held(self, tenure: _Tenure) -> None:
        """The item ran to its end, or was ended where it stood and left to the next claimant."""
        timeout = tenure.timeout = asyncio.timeout_at(tenure.until)
        try:
            async with timeout:
                await self._run(self._runners[tenure.item.kind], tenure.item, tenure.context)
        except TimeoutError:
            if not timeout.expired():
                raise
            log.warning("work_claim_was_lost")
            await self._release(tenure.item)
        except asyncio.CancelledError:
            await self._release(tenure.item)
            raise
        finally:
            tenure.timeout = None

    async def _release(self, item: WorkItem) -> None:
        """The item is left to the next claimant at once, if the database can be told."""
        with contextlib.suppress(StoreUnavailable, *UNAVAILABLE):
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await claims.release(self._store, item)

    async def _run(self, runner: Runner, item: WorkItem, context: WorkContext) -> None:
        try:
            if runner.is_spent(item.attempt - 1):
                await self._give_up(runner, item, context, TransientError("interrupted too often"))
            else:
                await runner.run(item, context)
            if context.has_claim:
                await self._end(item, context)
        except Fenced:
            log.warning("work_has_a_newer_claimant")
        except Exception as group:
            error = _only(group)
            log.exception("work_failed")
            is_last = runner.is_spent(item.attempt) or not isinstance(error, TransientError)
            try:
                if is_last:
                    await self._give_up(runner, item, context, error)
                    await self._end(item, context)
                else:
                    await self._postpone(item, error)
            except (Fenced, TransientError, *UNAVAILABLE) as later:
                log.warning("work_outcome_was_not_recorded", reason=repr(later))
            except Exception:  # a defect of ours: its claim runs out and it is tried again; other work goes on
                log.exception("work_outcome_could_not_be_recorded")

    async def _give_up(self, runner: Runner, item: WorkItem, context: WorkContext, error: Exception) -> None:
        log.error("work_was_given_up", reason=repr(error))
        if runner.give_up is not None:
            await runner.give_up(item, context, error)

    async def _end(self, item: WorkItem, context: WorkContext) -> None:
        """A runner that returned is done; one that rescheduled itself holds no claim and stays."""
        await self._store.fetch(
            "DELETE FROM work WHERE id = $1 AND attempts = $2 AND claimed_pid IS NOT NULL", item.work_id, item.attempt
        )
        context.is_done = True

    async def _postpone(self, item: WorkItem, error: Exception) -> None:
        delay_s = min(0.5 * 2 ** min(item.attempt, 16), BACKOFF_MAX_S)
        await self._store.fetch(
            "UPDATE work SET due_at = now() + $3, claimed_pid = NULL, last_error = $4 WHERE id = $1 AND attempts = $2",
            item.work_id,
            item.attempt,
            timedelta(seconds=delay_s),
            str(error).replace("\x00", "")[:1000],  # PostgreSQL stores no NUL, and guests may have chosen the words
        )


def _only(error: Exception) -> Exception:
    """The one failure inside a task group's wrapping: its kind decides whether to try again."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
