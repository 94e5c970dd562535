"""The real consuming edge of one process; only what it is connected to is simulated."""

import asyncio
from typing import Any
from weakref import WeakValueDictionary

import aio_pika

from services.chassis.bus import Consumer
from services.chassis.clock import Clock
from services.chassis.parked import ParkedMessages
from services.chassis.store import Store
from services.chassis.suspects import Suspects
from services.chassis.topology import Topology
from services.chassis.unit import Announce
from tests.simulation.broker import Parcel, SimBroker, SimQueue
from tests.simulation.loop import Process


class SimConsumer(Consumer):
    """The real consuming edge; only what it is connected to is simulated."""

    def __init__(
        self,
        broker: SimBroker,
        process: Process,
        *,
        topology: Topology,
        store: Store,
        clock: Clock,
        announce: Announce,
        parked: ParkedMessages,
        prefetch: int,
    ) -> None:
        self.process = process
        self.prefetch = prefetch
        self.unacknowledged: list[tuple[SimQueue, Parcel]] = []
        self.is_connected = False
        self._url = ""
        self._topology = topology
        self._store = store
        self._clock = clock
        self._announce = announce
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._sim = broker
        self._broker: Any = self
        self._parked = parked
        self._suspects = Suspects(store)

    @property
    def is_reachable(self) -> bool:
        """Whether a delivery reaches the process."""
        return self.is_connected and self.process.number not in self._sim.cut and not self._sim.is_down

    async def start(self) -> None:
        """Queues exist, are bound, and are being consumed."""
        await self._sim.trip(self.process)
        self._connect()
        self.process.on_death.append(self.disconnect)

    def _connect(self) -> None:
        if not self.is_connected:
            self.is_connected = True
            self._sim.declare(self._topology)
            self._sim.subscribe(self, self._topology)

    async def receive(self, queue: SimQueue, message: Any) -> None:
        """One delivery; what its connection's end does to it is that it comes again."""
        try:
            if queue.is_dead_letters:
                await self._keep(queue.inbound, message)
            else:
                await self._receive(queue.inbound, message)
        except (ConnectionError, aio_pika.exceptions.AMQPError):
            self._sim.counts["ack_lost"] += 1

    async def publish(self, message: Any, *, exchange: Any, routing_key: str, mandatory: bool, timeout: float) -> None:  # noqa: ARG002, ASYNC109
        """For the consumer itself: what it delays or parks."""
        await self._sim.publish(self.process, exchange.name, routing_key, message)

    def disconnect(self) -> None:
        """The broker takes back what was not acknowledged."""
        if self.is_connected:
            self.is_connected = False
            self._sim.unsubscribe(self)

    def reconnect(self) -> None:
        """The connection is made again after a while."""
        self.disconnect()
        if not self.process.is_dead:
            self.process.spawn(self._connect_again())

    async def _connect_again(self) -> None:
        while True:
            await asyncio.sleep(0.2 + self._sim.rng.random())
            try:
                await self._sim.trip(self.process)
            except ConnectionError:
                continue
            self._connect()
            return
