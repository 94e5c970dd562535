"""The publishing edge: what a unit said goes to the broker once the unit is committed, and then leaves the outbox.

A process says what it committed itself, from memory. What stays in the outbox for longer, because its process died, the
broker was away, or nobody took it, is found there by a slow sweep of whichever process comes first.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractRobustConnection

from services.chassis.broker_setup import with_heartbeat
from services.chassis.crash_points import Point, reached
from services.chassis.patience import until_woken
from services.chassis.store import Store, StoreUnavailable
from services.chassis.unit import OutboxRow, Unit

BATCH_MAX = 200
IDLE_POLL_S = 2.0
LEFT_AFTER_S = 2.0  # a message that stands for longer is nobody's any more
UNSAID_MAX = 10_000  # kept in memory; what is more is left to the sweep
GATHER_S = 0.25  # a confirmed message may stand for so long: it leaves the outbox with many others, in one statement
PUBLISH_TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
REFUSED_RETRY_S = 0.5
REPLAYS_HEADER = "x-malbox-replays"
AGAIN_HEADER = "x-malbox-again"
"""On what the sweep found: whoever committed it may have said it before it died."""

log = structlog.get_logger()

FAILURES = (
    aio_pika.exceptions.AMQPError,
    ConnectionError,
    OSError,
    TimeoutError,
    StoreUnavailable,
    RuntimeError,
)


@dataclass(frozen=True)
class _Found(OutboxRow):
    """A message that the sweep found: its place in the outbox, and how often an operator sent it anew."""

    id: int
    replays: int


R = TypeVar("R", bound=OutboxRow)


class Relay:
    """Woken after each commit. Delivery is at least once: a receiver knows a message that comes again by its id."""

    def __init__(self, store: Store, url: str) -> None:
        self._store = store
        self._url = url
        self._wake = asyncio.Event()
        self._is_confirmed = asyncio.Event()
        self._exchanges: dict[str, AbstractExchange] = {}
        self._unsaid: deque[OutboxRow] = deque()
        self._confirmed: list[str] = []
        self._mine: set[str] = set()  # ids of what was committed here, until it has left the outbox or is given up
        self._sweep_at = 0.0
        self._refused: dict[int, float] = {}  # rows that nobody took, and when (monotonic) they are tried again
        store.on_commit(self._on_commit)

    def wake(self) -> None:
        """The outbox is looked at now."""
        self._sweep_at = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Publishes until cancelled, through any number of broker and database failures."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forget_for_ever())
            group.create_task(self._connect_for_ever())

    async def lag_s(self) -> float:
        """Age of the oldest message not yet confirmed, in seconds; 0 when there is none."""
        row = await self._store.fetchrow(
            "SELECT coalesce(extract(epoch FROM now() - min(written_at)), 0)::float8 AS s FROM outbox"
        )
        return float(row["s"]) if row else 0.0

    def _on_commit(self, unit: Unit) -> None:
        room = UNSAID_MAX - len(self._unsaid)
        if unit.outbox and room > 0:
            self._unsaid.extend(unit.outbox[:room])
            self._mine.update(row.message_id for row in unit.outbox[:room])
            self._wake.set()

    async def _connect_for_ever(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                async with await aio_pika.connect_robust(with_heartbeat(self._url), timeout=10) as connection:
                    backoff_s = BACKOFF_FIRST_S
                    await self._publish_for_ever(connection)
            except FAILURES as error:
                log.warning("relay_was_interrupted", reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _publish_for_ever(self, connection: AbstractRobustConnection) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._exchanges.clear()
        while True:
            self._wake.clear()
            while self._unsaid:
                await self._say(channel, [self._unsaid.popleft() for _ in range(min(BATCH_MAX, len(self._unsaid)))])
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + IDLE_POLL_S
                await self._sweep(channel)
                if self._refused:
                    self._sweep_at = time.monotonic() + REFUSED_RETRY_S
            if not self._unsaid:
                await until_woken(self._wake, max(0.0, self._sweep_at - time.monotonic()))

    async def _say(self, channel: AbstractChannel, rows: Sequence[OutboxRow]) -> None:
        """Each was published: those that were confirmed leave the outbox, the others are left to the sweep."""
        reached(Point.PUBLISH_BEFORE)
        refused = await self._publish_all(channel, rows)
        self._confirmed += [row.message_id for row in rows if row not in refused]
        self._mine.difference_update(row.message_id for row in refused)
        self._is_confirmed.set()

    async def _forget_for_ever(self) -> None:
        """What was confirmed leaves the outbox, many messages at a time."""
        while True:
            await self._is_confirmed.wait()
            await asyncio.sleep(GATHER_S)
            self._is_confirmed.clear()
            confirmed, self._confirmed = self._confirmed, []
            try:
                await self._store.fetch("SELECT forget_said($1)", confirmed)
                reached(Point.PUBLISH_AFTER)
            except StoreUnavailable as error:
                log.warning("messages_will_be_said_again", count=len(confirmed), reason=str(error))
            self._mine.difference_update(confirmed)

    async def _sweep(self, channel: AbstractChannel) -> None:
        """What was left behind was tried once, but for what nobody took a moment ago: that stands in nobody's way."""
        now_s = time.monotonic()
        self._refused = {row: again_at for row, again_at in self._refused.items() if again_at > now_s}
        after: int | None = 0
        while after is not None:
            after = await self._sweep_batch(channel, after)

    async def _sweep_batch(self, channel: AbstractChannel, after: int) -> int | None:
        """Rows behind `after` were tried; the last of them, if there may be more. No two processes try the same."""
        async with self._store.transaction() as connection:
            found = await connection.fetch(
                "SELECT id, message_id, exchange, routing_key, body, replays FROM outbox WHERE id > $1 "
                "AND (written_at < now() - $4::interval OR replays > 0) "
                "AND id <> ALL($3::bigint[]) AND message_id <> ALL($5::text[]) ORDER BY id LIMIT $2 "
                "FOR UPDATE SKIP LOCKED",
                after,
                BATCH_MAX,
                list(self._refused),
                timedelta(seconds=LEFT_AFTER_S),
                list(self._mine),
            )
            rows = [_Found(**row) for row in found]
            if not rows:
                return None
            refused = await self._publish_all(channel, rows)
            confirmed = [row.id for row in rows if row not in refused]
            await connection.execute("DELETE FROM outbox WHERE id = ANY($1::bigint[])", confirmed)
        self._refused |= dict.fromkeys((row.id for row in refused), time.monotonic() + REFUSED_RETRY_S)
        return rows[-1].id if len(rows) == BATCH_MAX else None

    async def _publish_all(self, channel: AbstractChannel, rows: Sequence[R]) -> list[R]:
        """Those that the broker did not confirm."""
        done = await asyncio.gather(*(self._publish(channel, row) for row in rows), return_exceptions=True)
        faults = {row: outcome for row, outcome in zip(rows, done, strict=True) if outcome is not None}
        if faults:
            log.warning("messages_were_not_confirmed", count=len(faults), reason=repr(next(iter(faults.values()))))
        return list(faults)

    async def _publish(self, channel: AbstractChannel, row: OutboxRow) -> None:
        name, headers = row.exchange, {}
        if isinstance(row, _Found):
            headers = {AGAIN_HEADER: "1"} | ({REPLAYS_HEADER: str(row.replays)} if row.replays else {})
        if name not in self._exchanges:
            self._exchanges[name] = await channel.get_exchange(name, ensure=False)
        await self._exchanges[name].publish(
            aio_pika.Message(
                row.body,
                content_type="application/cloudevents+json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=row.message_id,
                headers=dict(headers),
            ),
            row.routing_key,
            mandatory=True,
            timeout=PUBLISH_TIMEOUT_S,
        )
        reached(Point.PUBLISH_CONFIRMED)
