"""How many tasks of each owner wait: counted at most once a second, and by what was accepted since."""

import time
from collections.abc import Callable
from datetime import timedelta

from services.chassis.store import Store
from services.intake.errors import NotYet

RECOUNT_S = 1.0
OWNERS_MAX = 10_000
FORGOTTEN_AFTER = timedelta(days=1)
"""A task of which nothing was heard for so long counts no more: the word of its beginning or end was lost."""
RETRY_AFTER_S = 30


class Backlog:
    """Guards the limit. Each process of the service counts for itself, so the limit is kept to within a second."""

    def __init__(self, store: Store, *, queued_max: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._queued_max = queued_max
        self._now = monotonic
        self._counts: dict[str, tuple[int, float]] = {}

    async def make_room(self, owner: str, tasks: int) -> None:
        """So many more tasks of the owner may be accepted, and count from now on. Raises NotYet, StoreUnavailable."""
        waiting, counted_at = self._counts.get(owner, (0, -RECOUNT_S))
        if self._now() - counted_at >= RECOUNT_S:
            waiting, counted_at = await count_waiting(self._store, owner, self._queued_max), self._now()
        if waiting + tasks > self._queued_max:
            raise NotYet(
                "too_many_queued",
                f"{owner} has {waiting} tasks that have not begun; with these {tasks} there would be more than "
                f"{self._queued_max} (queued_per_owner_max of intake). Wait until some have begun, or cancel some.",
                retry_after_s=RETRY_AFTER_S,
                status=429,
            )
        if len(self._counts) >= OWNERS_MAX:
            self._counts.clear()
        self._counts[owner] = (waiting + tasks, counted_at)


async def count_waiting(store: Store, owner: str, most: int) -> int:
    """How many tasks of the owner wait, counted no further than that. Raises StoreUnavailable."""
    row = await store.fetchrow(
        "SELECT count(*) AS n FROM (SELECT 1 FROM unstarted WHERE owner = $1 AND since > now() - $2::interval "
        "LIMIT $3) AS waiting",
        owner,
        FORGOTTEN_AFTER,
        most,
    )
    return int(row["n"]) if row else 0
