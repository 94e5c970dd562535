"""Durable work: what takes long is claimed from the store, done under a heartbeat, and found again after any crash.

A claim carries an attempt number: only the newest claimant can commit. A claim whose database connection is gone is
free at once; one whose process hangs is free after `CLAIM_S`.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
import structlog

from services.chassis.clock import Clock
from services.chassis.crash_points import Point, reached
from services.chassis.errors import TransientError
from services.chassis.store import (
    UNAVAILABLE,
    Conflict,
    Connection,
    Duplicate,
    Fenced,
    Store,
    StoreUnavailable,
    translated,
)
from services.chassis.unit import Announce, Cause, Unit, WorkClaim

CLAIM_S = 30.0
HEARTBEAT_S = 8.0
IDLE_POLL_S = 2.0
BACKOFF_MAX_S = 30.0
COMMIT_TRIES = 20

log = structlog.get_logger()


@dataclass(frozen=True)
class WorkItem:
    """One claimed piece of work. `attempt` counts from 1."""

    work_id: int
    kind: str
    key: str
    payload: dict[str, Any]
    attempt: int

    @property
    def claim(self) -> WorkClaim:
        """What fences this claim's commit."""
        return WorkClaim(self.work_id, self.attempt)


Decide = Callable[[Unit], Awaitable[None]]


class WorkContext:
    """What a runner has besides its item: the store, and commits of its own."""

    def __init__(self, *, item: WorkItem, service: str, store: Store, clock: Clock, announce: Announce) -> None:
        self.item = item
        self.store = store
        self.clock = clock
        self._service = service
        self._announce = announce
        self.is_finished = False

    def unit(self) -> Unit:
        """An empty unit, caused by this work."""
        cause = Cause(correlation_id=self.item.payload.get("task_id"))
        return Unit(
            service=self._service,
            at=self.clock.now(),
            uuid=self.clock.uuid,
            announce=self._announce,
            cause=cause,
        )

    async def commit(self, decide: Decide, *, finish: bool = False) -> None:
        """`decide` fills a unit that is then committed; it is asked again after a lost race. `finish` ends the work.

        Raises Fenced when the work has a newer claimant, StoreUnavailable, Conflict when races never end.
        """
        for _ in range(COMMIT_TRIES):
            unit = self.unit()
            await decide(unit)
            if finish:
                unit.finish(self.item.claim)
            try:
                await self.store.commit(unit)
            except (Conflict, StoreUnavailable) as error:
                last: TransientError = error
                await asyncio.sleep(0.05 if isinstance(error, Conflict) else 0.5)
                continue
            except Duplicate:
                pass  # what it would change stands already
            self.is_finished = self.is_finished or finish
            return
        raise last

    async def reschedule(self, delay_s: float) -> None:
        """The work is done again later, without counting as a failure. Raises Fenced."""
        row = await self.store.fetchrow(
            "UPDATE work SET due_at = now() + $3, claimed_until = NULL, claimed_pid = NULL "
            "WHERE id = $1 AND attempts = $2 RETURNING id",
            self.item.work_id,
            self.item.attempt,
            timedelta(seconds=delay_s),
        )
        if row is None:
            raise Fenced


@dataclass(frozen=True)
class Runner:
    """Does one kind of work.

    `run` must be safe to repeat; it finishes the work with `context.commit(…, finish=True)`, or returns without, which
    also ends it. `give_up` is called after `attempts_max` failures, or after one that no repetition can cure.
    """

    kind: str
    run: Callable[[WorkItem, WorkContext], Awaitable[None]]
    give_up: Callable[[WorkItem, WorkContext, Exception], Awaitable[None]] | None = None
    concurrency: int = 4
    attempts_max: int = 10


class Worker:
    """Claims due work of the kinds it has runners for, and runs it."""

    def __init__(
        self, *, service: str, store: Store, clock: Clock, announce: Announce, runners: Mapping[str, Runner]
    ) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._announce = announce
        self._runners = runners
        self._wake = asyncio.Event()
        self._running: dict[int, WorkItem] = {}
        self._counts: dict[str, int] = dict.fromkeys(runners, 0)
        store.on_commit(lambda unit: self._wake.set() if unit.work else None)

    def wake(self) -> None:
        """Due work is looked for at once."""
        self._wake.set()

    async def run(self) -> None:
        """Works until cancelled. Losing the database interrupts claiming, not what is being done."""
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
        beat_at = 0.0
        while True:
            self._wake.clear()
            if time.monotonic() >= beat_at:
                await self._beat(connection)
                beat_at = time.monotonic() + HEARTBEAT_S
            items = await self._claim(connection)
            if items:
                reached(Point.CLAIM_AFTER)
            for item in items:
                self._running[item.work_id] = item
                self._counts[item.kind] += 1
                group.create_task(self._attend(item), name=f"{item.kind}:{item.key}")
            if not items:
                delay_s = await self._until_next_due(connection)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), min(delay_s, IDLE_POLL_S))

    async def _claim(self, connection: Connection) -> list[WorkItem]:
        """As much due work of each kind as may still be begun, in one statement for all kinds."""
        free = {runner.kind: runner.concurrency - self._counts[runner.kind] for runner in self._runners.values()}
        kinds = [kind for kind, places in free.items() if places > 0]
        if not kinds:
            return []
        with translated():
            rows = await connection.fetch(
                """
                UPDATE work SET attempts = attempts + 1, claimed_until = now() + $3, claimed_pid = pg_backend_pid()
                WHERE id IN (
                    SELECT due.id FROM unnest($1::text[], $2::int[]) AS wanted(kind, places) CROSS JOIN LATERAL (
                        SELECT id FROM work WHERE kind = wanted.kind AND due_at <= now() AND id <> ALL($4::bigint[])
                        AND (claimed_until IS NULL OR claimed_until < now()
                             OR NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = claimed_pid))
                        ORDER BY due_at LIMIT wanted.places FOR UPDATE SKIP LOCKED) AS due)
                RETURNING id, kind, key, payload::text AS payload, attempts
                """,
                kinds,
                [free[kind] for kind in kinds],
                timedelta(seconds=CLAIM_S),
                list(self._running),
            )
        return [
            WorkItem(row["id"], row["kind"], row["key"], orjson.loads(row["payload"]), row["attempts"]) for row in rows
        ]

    async def _until_next_due(self, connection: Connection) -> float:
        with translated():
            due_s = await connection.fetchval(
                "SELECT extract(epoch FROM min(due_at) - now())::float8 FROM work WHERE due_at > now()"
            )
        return max(0.01, float(due_s)) if due_s is not None else IDLE_POLL_S

    async def _beat(self, connection: Connection) -> None:
        """The claims of what runs here are extended, and tied to this connection."""
        with translated():
            await connection.execute(
                "UPDATE work SET claimed_until = now() + $1, claimed_pid = pg_backend_pid() "
                "FROM unnest($2::bigint[], $3::int[]) AS mine(id, attempt) "
                "WHERE work.id = mine.id AND work.attempts = mine.attempt AND claimed_until IS NOT NULL",
                timedelta(seconds=CLAIM_S),
                list(self._running),
                [item.attempt for item in self._running.values()],
            )

    async def _attend(self, item: WorkItem) -> None:
        runner = self._runners[item.kind]
        context = WorkContext(
            item=item, service=self._service, store=self._store, clock=self._clock, announce=self._announce
        )
        try:
            with structlog.contextvars.bound_contextvars(work=item.kind, key=item.key, attempt=item.attempt):
                await self._run(runner, item, context)
        finally:
            self._running.pop(item.work_id, None)
            self._counts[item.kind] -= 1
            self._wake.set()

    async def _run(self, runner: Runner, item: WorkItem, context: WorkContext) -> None:
        try:
            if item.attempt > runner.attempts_max:
                await self._give_up(runner, item, context, TransientError("interrupted too often"))
            else:
                await runner.run(item, context)
            if not context.is_finished:
                await self._end(item)
        except Fenced:
            log.warning("work_has_a_newer_claimant")
        except Exception as group:
            error = _only(group)
            log.exception("work_failed")
            is_last = item.attempt >= runner.attempts_max or not isinstance(error, TransientError)
            try:
                if is_last:
                    await self._give_up(runner, item, context, error)
                    await self._end(item)
                else:
                    await self._postpone(item, error)
            except (Fenced, TransientError, *UNAVAILABLE) as later:
                log.warning("work_outcome_was_not_recorded", reason=repr(later))
            except Exception:  # a defect of ours: its claim runs out and it is tried again; other work goes on
                log.exception("work_outcome_could_not_be_recorded")

    async def _give_up(self, runner: Runner, item: WorkItem, context: WorkContext, error: Exception) -> None:
        if runner.give_up is not None:
            await runner.give_up(item, context, error)

    async def _end(self, item: WorkItem) -> None:
        """A runner that returned is done; one that rescheduled itself holds no claim and stays."""
        await self._store.fetch(
            "DELETE FROM work WHERE id = $1 AND attempts = $2 AND claimed_until IS NOT NULL",
            item.work_id,
            item.attempt,
        )

    async def _postpone(self, item: WorkItem, error: Exception) -> None:
        delay_s = min(0.5 * 2**item.attempt, BACKOFF_MAX_S)
        await self._store.fetch(
            "UPDATE work SET due_at = now() + $3, claimed_until = NULL, claimed_pid = NULL, last_error = $4 "
            "WHERE id = $1 AND attempts = $2",
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
