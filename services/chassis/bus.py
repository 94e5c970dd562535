"""The consuming edge: FastStream on RabbitMQ. A queue of facts and one of commands per service, parking for poison.

A handler commits its unit with the inbox entry; only then is the message acknowledged. Bad input is parked in the
dead-letter queue at once; what may succeed later goes round through a delay queue, a bounded number of times; while the
store is away the message simply waits, unacknowledged. A dead-letter queue is emptied into the store, for operators.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from weakref import WeakValueDictionary

import structlog
from aio_pika import DeliveryMode
from aio_pika import Message as AmqpMessage
from faststream import AckPolicy
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue

from contracts.catalogue import unwrap
from contracts.envelope import Envelope, EnvelopeError, Message
from services.chassis import broker_setup
from services.chassis.clock import Clock
from services.chassis.crash_points import Point, around
from services.chassis.errors import PermanentError, TransientError
from services.chassis.parked import Dead, ParkedMessages, identity
from services.chassis.patience import until_stored
from services.chassis.relay import AGAIN_HEADER, REPLAYS_HEADER
from services.chassis.store import Conflict, Duplicate, Store
from services.chassis.suspects import Condemned, Suspects
from services.chassis.topology import Handler, Inbound, Topology
from services.chassis.unit import Announce, Cause, Unit

RETRIES_MAX = 40
CONFLICTS_MAX = 20
UNSETTLED_PAUSE_S = 1.0
"""What could be neither handled nor put into another queue comes again, up to the broker's delivery limit."""
RETRY_HEADER = "x-malbox-retry"
REASON_HEADER = "x-malbox-reason"
DELIVERIES_HEADER = "x-delivery-count"  # of a quorum queue: absent at the first delivery
DEATHS_HEADER = "x-death"

log = structlog.get_logger()


class Consumer:
    """Takes messages off the service's queues, hands each to its handler, commits, acknowledges."""

    def __init__(
        self,
        *,
        url: str,
        topology: Topology,
        store: Store,
        clock: Clock,
        announce: Announce,
        parked: ParkedMessages,
        prefetch: int,
    ) -> None:
        self._url = url
        self._topology = topology
        self._store = store
        self._clock = clock
        self._announce = announce
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # kept by who holds or waits
        self._broker = RabbitBroker(
            broker_setup.with_heartbeat(url),
            default_channel=Channel(prefetch_count=prefetch, on_return_raises=True),
            logger=None,
            fail_fast=False,
            apply_types=False,  # arguments are not injected: it would cost a thread switch per message
            graceful_timeout=10,
        )
        self._parked = parked
        self._suspects = Suspects(store)

    async def start(self) -> None:
        """Queues exist, are bound, and are being consumed."""
        await broker_setup.prepare(self._url, self._topology)
        if not self._broker.subscribers:
            for inbound in self._topology.inbound:
                self._consume(inbound, inbound.name, self._receive)
                self._consume(inbound, inbound.dead, self._keep)
        await self._broker.start()

    async def stop(self) -> None:
        """Nothing more is consumed; what was being handled has ended."""
        await self._broker.stop()

    async def is_ready(self) -> bool:
        """The connection to the broker stands."""
        return bool(await self._broker.ping(timeout=2))

    def _consume(
        self, inbound: Inbound, queue: str, receive: Callable[[Inbound, RabbitMessage], Awaitable[None]]
    ) -> None:
        async def received(message: RabbitMessage) -> None:
            try:
                await receive(inbound, message)
            except Exception:  # it stands in no other queue: FastStream would keep it, and say nothing
                log.exception("message_was_not_settled", queue=queue)
                await asyncio.sleep(UNSETTLED_PAUSE_S)
                await message.nack(requeue=True)

        self._broker.subscriber(
            RabbitQueue(queue, declare=False),
            RabbitExchange(inbound.own_exchange, type=ExchangeType.DIRECT, declare=False),
            ack_policy=AckPolicy.MANUAL,
            parser=None,
            decoder=_raw,
        )(received)

    async def _receive(self, inbound: Inbound, message: RabbitMessage) -> None:
        known_as = identity(self._topology.service, inbound.name, message.body)
        try:
            async with self._suspects.attending(known_as, _count(message.headers.get(DELIVERIES_HEADER))):
                await self._read(inbound, message)
        except Condemned as error:
            await self._park(inbound, message, str(error))

    async def _keep(self, inbound: Inbound, message: RabbitMessage) -> None:
        """What is in the dead-letter queue is in the store, and then no longer in the queue."""
        dead = Dead(inbound.name, message.body, _why_dead(message), _count(message.headers.get(REPLAYS_HEADER)) + 1)
        await until_stored(lambda: self._parked.keep(dead))
        log.error("message_parked", queue=inbound.name, reason=dead.reason, times=dead.times)
        await message.ack()

    async def _read(self, inbound: Inbound, message: RabbitMessage) -> None:
        try:
            envelope = Envelope.from_json(message.body)
            content = unwrap(envelope)
            handler = self._topology.handlers.get(type(content))
            if handler is None:
                raise EnvelopeError(f"{envelope.type} is not for {self._topology.service}")  # noqa: TRY301
        except EnvelopeError as error:
            await self._park(inbound, message, str(error))
            return
        with structlog.contextvars.bound_contextvars(
            message_id=envelope.id, type=envelope.type, subject=envelope.subject
        ):
            await self._handle(inbound, message, envelope, content, handler)

    async def _handle(
        self, inbound: Inbound, message: RabbitMessage, envelope: Envelope, content: Message, handler: Handler
    ) -> None:
        try:
            if _may_come_again(message) and await until_stored(lambda: self._was_handled(envelope.id)):
                raise Duplicate  # noqa: TRY301 - as the store says of it, which writes each into its own log as an error
            await self.perform(envelope, content, handler)
        except Duplicate:
            log.info("message_was_a_duplicate")
        except TransientError as error:
            await self._retry_later(inbound, message, str(error))
            return
        except PermanentError as error:
            await self._park(inbound, message, str(error))
            return
        except Exception as error:  # a defect of ours: the message is kept where an operator sees it
            log.exception("handler_failed")
            await self._park(inbound, message, f"{type(error).__name__}: {error}")
            return
        await _acknowledge(message)

    async def _was_handled(self, message_id: str) -> bool:
        return await self._store.fetchrow("SELECT FROM inbox WHERE message_id = $1", message_id) is not None

    async def perform(self, envelope: Envelope, content: Message, handler: Handler) -> None:
        """The handler's unit is committed. Waits while the store is away; tries again after a lost race.

        Messages about one subject are handled in the order of their arrival.
        """
        lock = self._locks.setdefault(envelope.subject, asyncio.Lock())
        async with lock:
            for _ in range(CONFLICTS_MAX):
                try:
                    await until_stored(lambda: self._perform_once(envelope, content, handler))
                except Conflict:
                    log.info("unit_conflicted")
                else:
                    return
            raise TransientError(f"lost the race {CONFLICTS_MAX} times")

    async def _perform_once(self, envelope: Envelope, content: Message, handler: Handler) -> None:
        unit = Unit(
            service=self._topology.service,
            at=self._clock.now(),
            uuid=self._clock.uuid,
            announce=self._announce,
            cause=Cause(envelope.id, envelope.correlationid, envelope.traceparent, _count(envelope.sequence)),
        )
        await handler(content, unit, self._store)
        await self._store.commit(unit)

    async def _retry_later(self, inbound: Inbound, message: RabbitMessage, reason: str) -> None:
        tries = _count(message.headers.get(RETRY_HEADER)) + 1
        if tries > RETRIES_MAX:
            await self._park(inbound, message, f"{reason} (after {RETRIES_MAX} retries)")
            return
        log.info("message_will_be_retried", reason=reason, tries=tries)
        await self._republish(inbound, inbound.retry, message, {RETRY_HEADER: str(tries), REASON_HEADER: reason})

    async def _park(self, inbound: Inbound, message: RabbitMessage, reason: str) -> None:
        await self._republish(inbound, inbound.dead, message, {REASON_HEADER: reason})

    async def _republish(self, inbound: Inbound, queue: str, message: RabbitMessage, headers: dict[str, str]) -> None:
        """The message stands in the other queue before it leaves this one."""
        kept = {name: value for name, value in message.headers.items() if not name.startswith("x-death")}
        await self._broker.publish(
            AmqpMessage(
                message.body,
                content_type="application/cloudevents+json",
                delivery_mode=DeliveryMode.PERSISTENT,
                message_id=message.message_id,
                headers={**kept, **{name: value[:1000] for name, value in headers.items()}},
            ),
            exchange=RabbitExchange(inbound.own_exchange, type=ExchangeType.DIRECT, declare=False),
            routing_key=queue,
            mandatory=True,
            timeout=timedelta(seconds=10).total_seconds(),
        )
        await _acknowledge(message)


async def _acknowledge(message: RabbitMessage) -> None:
    """The broker may forget the message: it is handled, or stands in another queue."""
    with around(Point.ACK_BEFORE, Point.ACK_AFTER):
        await message.ack()


async def _raw(message: RabbitMessage) -> RabbitMessage:
    """The handler is given the message itself."""
    return message


def _may_come_again(message: RabbitMessage) -> bool:
    """Whether it was delivered before, or said by another than who committed it. Few are: each costs a question."""
    return any(_count(message.headers.get(name)) for name in (DELIVERIES_HEADER, AGAIN_HEADER, REPLAYS_HEADER))


def _count(value: object) -> int:
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isdigit() else 0


def _why_dead(message: RabbitMessage) -> str:
    """The words that it was parked with, or the broker's own reason where the broker gave it up."""
    deaths = message.headers.get(DEATHS_HEADER)
    if isinstance(deaths, list) and any(death.get("reason") == "delivery_limit" for death in deaths):
        return "the broker gave it up: it was delivered too often and never acknowledged"
    return str(message.headers.get(REASON_HEADER, "no reason was given"))
