"""The publishing edge: rows of the outbox go to the broker and are deleted in the transaction that saw the confirms."""

import asyncio
import time

import aio_pika
import asyncpg
import structlog
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractRobustConnection

from services.chassis.crash_points import Point, reached
from services.chassis.patience import until_woken
from services.chassis.store import Store, StoreUnavailable

BATCH_MAX = 200
IDLE_POLL_S = 2.0
PUBLISH_TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
REFUSED_RETRY_S = 0.5
REPLAYS_HEADER = "x-malbox-replays"

log = structlog.get_logger()

FAILURES = (
    aio_pika.exceptions.AMQPError,
    ConnectionError,
    OSError,
    TimeoutError,
    StoreUnavailable,
    RuntimeError,
)


class Relay:
    """Woken after each commit; polls slowly behind that, so that a lost wake costs seconds and never a message."""

    def __init__(self, store: Store, url: str) -> None:
        self._store = store
        self._url = url
        self._wake = asyncio.Event()
        self._exchanges: dict[str, AbstractExchange] = {}
        self._refused: dict[int, float] = {}  # rows that nobody took, and when (monotonic) they are tried again
        store.on_commit(lambda unit: self._wake.set() if unit.outbox else None)

    def wake(self) -> None:
        """The outbox is looked at now."""
        self._wake.set()

    async def run(self) -> None:
        """Publishes until cancelled, through any number of broker and database failures."""
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                async with await aio_pika.connect_robust(self._url, timeout=10) as connection:
                    backoff_s = BACKOFF_FIRST_S
                    await self._publish_for_ever(connection)
            except FAILURES as error:
                log.warning("relay_was_interrupted", reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def lag_s(self) -> float:
        """Age of the oldest message not yet confirmed, in seconds; 0 when there is none."""
        row = await self._store.fetchrow(
            "SELECT coalesce(extract(epoch FROM now() - min(written_at)), 0)::float8 AS s FROM outbox"
        )
        return float(row["s"]) if row else 0.0

    async def _publish_for_ever(self, connection: AbstractRobustConnection) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._exchanges.clear()
        while True:
            self._wake.clear()
            await self._sweep(channel)
            await until_woken(self._wake, REFUSED_RETRY_S if self._refused else IDLE_POLL_S)

    async def _sweep(self, channel: AbstractChannel) -> None:
        """Every row was tried once, but for those that nobody took a moment ago: they stand in nobody's way."""
        now_s = time.monotonic()
        self._refused = {row: again_at for row, again_at in self._refused.items() if again_at > now_s}
        after: int | None = 0
        while after is not None:
            after = await self._publish_batch(channel, after)

    async def _publish_batch(self, channel: AbstractChannel, after: int) -> int | None:
        """Rows behind `after` were tried; the last of them, if there may be more."""
        async with self._store.transaction() as connection:
            # A deletion that a crash of the database forgets sends a message again, which its receivers know by its id:
            # not worth a flush of the disk. The rows themselves were flushed when they were committed.
            await connection.execute("SET LOCAL synchronous_commit TO off")
            rows = await connection.fetch(
                "SELECT id, message_id, exchange, routing_key, body, replays FROM outbox WHERE id > $1 "
                "AND id <> ALL($3::bigint[]) ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED",
                after,
                BATCH_MAX,
                list(self._refused),
            )
            if not rows:
                return None
            reached(Point.PUBLISH_BEFORE)
            done = await asyncio.gather(*(self._publish(channel, row) for row in rows), return_exceptions=True)
            confirmed = [row["id"] for row, outcome in zip(rows, done, strict=True) if outcome is None]
            await connection.execute("DELETE FROM outbox WHERE id = ANY($1::bigint[])", confirmed)
            reached(Point.PUBLISH_DELETED)
        reached(Point.PUBLISH_AFTER)
        faults = {row["id"]: outcome for row, outcome in zip(rows, done, strict=True) if outcome is not None}
        if faults:
            log.warning("messages_were_not_confirmed", count=len(faults), reason=repr(next(iter(faults.values()))))
            self._refused |= dict.fromkeys(faults, time.monotonic() + REFUSED_RETRY_S)
        return int(rows[-1]["id"]) if len(rows) == BATCH_MAX else None

    async def _publish(self, channel: AbstractChannel, row: asyncpg.Record) -> None:
        name = row["exchange"]
        if name not in self._exchanges:
            self._exchanges[name] = await channel.get_exchange(name, ensure=False)
        await self._exchanges[name].publish(
            aio_pika.Message(
                row["body"],
                content_type="application/cloudevents+json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=row["message_id"],
                headers={REPLAYS_HEADER: str(row["replays"])} if row["replays"] else None,
            ),
            row["routing_key"],
            mandatory=True,
            timeout=PUBLISH_TIMEOUT_S,
        )
        reached(Point.PUBLISH_CONFIRMED)
