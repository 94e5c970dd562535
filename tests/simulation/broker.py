"""RabbitMQ as the services see it, in memory: at least once, in any order, late, twice, and gone with all it held.

Queues, bindings, retry and parking are those of `services.chassis.topology`; the consuming edge is in `consumer`.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import aio_pika

from deploy.local.broker_rights import TOPOLOGY
from services.chassis.bus import DEATHS_HEADER, DELIVERIES_HEADER
from services.chassis.topology import DELIVERY_LIMIT, RETRY_DELAY_MS, Inbound, Topology
from services.chassis.unit import COMMANDS_EXCHANGE
from tests.simulation.loop import Process, SimLoop

if TYPE_CHECKING:
    from tests.simulation.consumer import SimConsumer

WINDOW = 8
"""Out of so many of the oldest messages of a queue the next is drawn."""


@dataclass(eq=False)
class Parcel:
    """One message in one queue."""

    body: bytes
    message_id: str
    headers: dict[str, Any]
    deliveries: int = 0


@dataclass(eq=False)
class SimQueue:
    """One queue and who consumes it."""

    inbound: Inbound
    is_dead_letters: bool = False
    waiting: list[Parcel] = field(default_factory=list)
    consumers: list["SimConsumer"] = field(default_factory=list)
    is_scheduled: bool = False


class SimMessage:
    """What the consuming edge is handed."""

    def __init__(self, broker: "SimBroker", consumer: "SimConsumer", queue: SimQueue, parcel: Parcel) -> None:
        again = {DELIVERIES_HEADER: parcel.deliveries - 1} if parcel.deliveries > 1 else {}
        self.body = parcel.body
        self.headers = {**parcel.headers, **again}
        self.message_id = parcel.message_id
        self._delivery = (broker, consumer, queue, parcel)

    async def ack(self) -> None:
        """The broker forgets it; an acknowledgement may be lost with its connection."""
        broker, consumer, queue, parcel = self._delivery
        await broker.trip(consumer.process)
        if (queue, parcel) not in consumer.unacknowledged:
            raise ConnectionResetError("the channel that delivered it is closed")
        broker.acknowledge(consumer, queue, parcel)


class SimBroker:
    """The broker."""

    def __init__(self, loop: SimLoop, rng: Random, counts: Counter[str]) -> None:
        self.loop = loop
        self.rng = rng
        self.counts = counts
        self.queues: dict[str, SimQueue] = {}
        self.bindings: dict[tuple[str, str], list[str]] = {}
        self.is_down = False
        self.cut: set[int] = set()
        self.heard: set[str] = set()
        self.duplicate_rate = 0.0
        self.delay_rate = 0.0
        self.lost_confirm_rate = 0.0
        self.install()

    async def trip(self, process: Process) -> None:
        """One way over the network. Raises ConnectionError."""
        draw = self.rng.random()
        await asyncio.sleep(0.0 if draw < 0.6 else draw * 0.01)
        if self.is_down or process.number in self.cut:
            raise ConnectionResetError("the broker cannot be reached")

    def install(self) -> None:
        """Every service's queues exist, as the installation's definitions make them at each start of the broker."""
        bindings = json.loads(TOPOLOGY.read_text(encoding="utf-8"))["bindings"]
        shared = [binding for binding in bindings if not binding[0].endswith(".own")]
        for name in dict.fromkeys(queue for _, _, queue in shared):
            keys = tuple(key for _, key, queue in shared if queue == name)
            exchange = next(exchange for exchange, _, queue in shared if queue == name)
            self._declare((Inbound(name.partition(".")[0], name, exchange, keys),))

    def declare(self, topology: Topology) -> None:
        """The service's queues exist and are bound."""
        self._declare(topology.inbound)

    def _declare(self, inbounds: tuple[Inbound, ...]) -> None:
        for inbound in inbounds:
            self.queues.setdefault(inbound.name, SimQueue(inbound))
            self.queues.setdefault(inbound.dead, SimQueue(inbound, is_dead_letters=True))
            for key in inbound.keys:
                names = self.bindings.setdefault((inbound.exchange, key), [])
                if inbound.name not in names:
                    names.append(inbound.name)

    def subscribe(self, consumer: "SimConsumer", topology: Topology) -> None:
        """The consumer is given what comes."""
        for inbound in topology.inbound:
            for queue in (self.queues[inbound.name], self.queues[inbound.dead]):
                queue.consumers.append(consumer)
                self._schedule(queue)

    def unsubscribe(self, consumer: "SimConsumer") -> None:
        """What the consumer had not acknowledged is delivered again."""
        for queue in self.queues.values():
            if consumer in queue.consumers:
                queue.consumers.remove(consumer)
            for parcel in [parcel for owner, parcel in consumer.unacknowledged if owner is queue]:
                self.counts["bus_redelivery"] += 1
                queue.waiting.insert(0, parcel)
            self._schedule(queue)
        consumer.unacknowledged.clear()

    async def publish(self, process: Process, exchange: str, key: str, message: Any) -> None:
        """The message stands in every queue that is bound. Raises ConnectionError, AMQPError when none is."""
        await self.trip(process)
        parcel = Parcel(message.body, message.message_id or "", dict(message.headers or {}))
        self.heard.add(parcel.message_id)
        if exchange.endswith(".own"):
            self._own(key, parcel)
        else:
            names = self.bindings.get((exchange, key), [])
            if not names and exchange == COMMANDS_EXCHANGE:
                raise aio_pika.exceptions.AMQPError(f"{key} is not routed")
            for name in names:
                self._put(self.queues[name], Parcel(parcel.body, parcel.message_id, dict(parcel.headers)))
                if self.duplicate_rate and self.rng.random() < self.duplicate_rate:
                    self.counts["fault bus_duplicate"] += 1
                    self._put(self.queues[name], Parcel(parcel.body, parcel.message_id, dict(parcel.headers)))
        if self.lost_confirm_rate and self.rng.random() < self.lost_confirm_rate:
            self.counts["confirm_lost"] += 1
            raise ConnectionResetError("the connection was lost before the confirm")
        await self.trip(process)

    def _own(self, key: str, parcel: Parcel) -> None:
        name = key.removesuffix(".retry")
        if name != key:
            self.counts["bus_retry"] += 1
            at = self.loop.now + RETRY_DELAY_MS / 1000
            self.loop.world.context.copy().run(self.loop.call_at, at, self._come_back, name, parcel)
        elif key in self.queues:
            self._put(self.queues[key], parcel)
        else:
            raise aio_pika.exceptions.AMQPError(f"{key} is not routed")

    def _come_back(self, name: str, parcel: Parcel) -> None:
        queue = self.queues.get(name)
        if queue is not None:
            self._put(queue, parcel)

    def _put(self, queue: SimQueue, parcel: Parcel) -> None:
        queue.waiting.append(parcel)
        self._schedule(queue)

    def _schedule(self, queue: SimQueue) -> None:
        if not queue.is_scheduled and queue.waiting and queue.consumers:
            queue.is_scheduled = True
            delay_s = self.rng.random() * 0.002
            if self.delay_rate and self.rng.random() < self.delay_rate:
                self.counts["bus_delay"] += 1
                delay_s = self.rng.random() * 8
            self.loop.world.context.copy().run(self.loop.call_at, self.loop.now + delay_s, self._deliver, queue)

    def _deliver(self, queue: SimQueue) -> None:
        queue.is_scheduled = False
        able = [one for one in queue.consumers if len(one.unacknowledged) < one.prefetch and one.is_reachable]
        if not able or not queue.waiting:
            return
        consumer = able[int(self.rng.random() * len(able))]
        index = int(self.rng.random() * min(WINDOW, len(queue.waiting)))
        if index:
            self.counts["bus_reordering"] += 1
        parcel = queue.waiting.pop(index)
        parcel.deliveries += 1
        if parcel.deliveries > DELIVERY_LIMIT and not queue.is_dead_letters:
            self.counts["delivery_limit"] += 1
            parcel.headers[DEATHS_HEADER] = [{"reason": "delivery_limit"}]
            parcel.deliveries = 0
            self._put(self.queues[queue.inbound.dead], parcel)
        else:
            consumer.unacknowledged.append((queue, parcel))
            message: Any = SimMessage(self, consumer, queue, parcel)
            consumer.process.spawn(consumer.receive(queue, message))
        self._schedule(queue)

    def acknowledge(self, consumer: "SimConsumer", queue: SimQueue, parcel: Parcel) -> None:
        """The message is gone from the queue."""
        if (queue, parcel) in consumer.unacknowledged:
            consumer.unacknowledged.remove((queue, parcel))
            self._schedule(queue)

    def wipe(self) -> None:
        """Everything is lost: messages, queues, bindings. Whoever connects again declares what is theirs."""
        consumers = [consumer for queue in self.queues.values() for consumer in queue.consumers]
        self.counts["messages_wiped"] += sum(len(queue.waiting) for queue in self.queues.values())
        self.queues.clear()
        self.bindings.clear()
        self.install()
        for consumer in dict.fromkeys(consumers):
            consumer.unacknowledged.clear()
            consumer.is_connected = False
            consumer.reconnect()
