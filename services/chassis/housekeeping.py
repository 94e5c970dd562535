"""Rows that only matter for a while are deleted when it is over: nothing grows without a bound."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import structlog

from services.chassis.store import Store, StoreUnavailable

INTERVAL_S = 3600.0
BATCH_MAX = 10_000
INBOX_DAYS = 14

log = structlog.get_logger()


@dataclass(frozen=True)
class Expiry:
    """Rows of `table` whose instant in `column` is longer ago than `days` are deleted.

    With `of`, the column is of that other table's row about the same `task_id`; a row without one stays. `only` is one
    more condition, in SQL.
    """

    table: str
    column: str
    days: int
    of: str = ""
    only: str = "true"

    @property
    def condition(self) -> str:
        """Which rows go, in SQL; $1 is the interval of `days`."""
        is_old = f"{self.of or self.table}.{self.column} < now() - $1::interval"
        if self.of:
            same = f"{self.of}.task_id = {self.table}.task_id"
            is_old = f"EXISTS (SELECT FROM {self.of} WHERE {same} AND {is_old})"
        return f"{is_old} AND {self.only}"


INBOX = Expiry("inbox", "received_at", INBOX_DAYS)
"""A message that is delivered again after so long has its effect again; none lives in a queue for so long."""


async def expire(store: Store, expiry: Expiry) -> int:
    """The expired rows are gone; how many there were. Raises StoreUnavailable."""
    total = 0
    while True:
        rows = await store.fetch(
            f"DELETE FROM {expiry.table} WHERE ctid = ANY(ARRAY("  # noqa: S608 - names from our own code
            f"SELECT ctid FROM {expiry.table} WHERE {expiry.condition} LIMIT $2)) RETURNING 1",
            timedelta(days=expiry.days),
            BATCH_MAX,
        )
        total += len(rows)
        if len(rows) < BATCH_MAX:
            return total


async def run(store: Store, expiries: tuple[Expiry, ...]) -> None:
    """Expires at every interval until cancelled."""
    while True:
        for expiry in expiries:
            try:
                if count := await expire(store, expiry):
                    log.info("rows_expired", table=expiry.table, count=count)
            except StoreUnavailable as error:
                log.warning("housekeeping_was_interrupted", reason=str(error))
        await asyncio.sleep(INTERVAL_S)
