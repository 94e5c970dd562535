"""One piece of work as its runner sees it: what it is, how to commit under its claim, and what a runner is."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from services.chassis.clock import Clock
from services.chassis.errors import TransientError
from services.chassis.store import Conflict, Duplicate, Fenced, Store, StoreUnavailable
from services.chassis.unit import Announce, Cause, Unit, WorkClaim

COMMIT_TRIES = 20


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
    """What a runner has besides its item: the store, and commits of its own, refused once another has the claim."""

    def __init__(self, *, item: WorkItem, service: str, store: Store, clock: Clock, announce: Announce) -> None:
        self.item = item
        self.store = store
        self.clock = clock
        self._service = service
        self._announce = announce
        self.has_claim = True
        self.is_done = False

    def unit(self) -> Unit:
        """An empty unit, caused by this work."""
        cause = Cause(correlation_id=self.item.payload.get("task_id"))
        return Unit(
            service=self._service,
            at=self.clock.now(),
            uuid=self.clock.uuid,
            announce=self._announce,
            cause=cause,
            holds=self.item.claim,
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
            self.has_claim = self.has_claim and not finish
            self.is_done = self.is_done or finish
            return
        raise last

    async def reschedule(self, delay_s: float) -> None:
        """The work is done again later, without counting as a failure. Raises Fenced."""
        row = await self.store.fetchrow(
            "UPDATE work SET due_at = now() + $3, claimed_pid = NULL WHERE id = $1 AND attempts = $2 RETURNING id",
            self.item.work_id,
            self.item.attempt,
            timedelta(seconds=delay_s),
        )
        if row is None:
            raise Fenced
        self.has_claim = False


@dataclass(frozen=True)
class Runner:
    """Does one kind of work.

    `run` must be safe to repeat; it finishes the work with `context.commit(…, finish=True)`, or returns without, which
    also ends it. It is cancelled when its claim can no longer be believed in. `give_up` is called after `attempts_max`
    failures (None: they are not counted), or after one that no repetition can cure.
    """

    kind: str
    run: Callable[[WorkItem, WorkContext], Awaitable[None]]
    give_up: Callable[[WorkItem, WorkContext, Exception], Awaitable[None]] | None = None
    concurrency: int = 4
    attempts_max: int | None = 10

    def is_spent(self, attempts: int) -> bool:
        """Whether nothing is tried any more after so many."""
        return self.attempts_max is not None and attempts >= self.attempts_max
