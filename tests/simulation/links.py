"""The relay's way to the broker: connections, of which each is its own only channel, and exchanges."""

from collections.abc import Awaitable, Callable
from typing import Any, Self

from tests.simulation.broker import SimBroker
from tests.simulation.loop import Process


class SimExchange:
    """An exchange as the relay sees it."""

    def __init__(self, broker: SimBroker, process: Process, name: str) -> None:
        self._broker = broker
        self._process = process
        self._name = name

    async def publish(self, message: Any, routing_key: str, *, mandatory: bool, timeout: float) -> None:  # noqa: ARG002, ASYNC109
        """Confirmed."""
        await self._broker.publish(self._process, self._name, routing_key, message)


class SimLink:
    """A connection as the relay sees it: itself its only channel."""

    def __init__(self, broker: SimBroker, process: Process) -> None:
        self._broker = broker
        self._process = process

    async def channel(self, **_options: Any) -> "SimLink":
        """A channel."""
        return self

    async def get_exchange(self, name: str, *, ensure: bool) -> SimExchange:  # noqa: ARG002
        """An exchange."""
        return SimExchange(self._broker, self._process, name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_of: object) -> None:
        """Closed."""


def connector(broker: SimBroker, process: Process) -> Callable[..., Awaitable[SimLink]]:
    """What stands in for `aio_pika.connect_robust`."""

    async def connect(_url: str, *, timeout: float) -> SimLink:  # noqa: ARG001, ASYNC109
        await broker.trip(process)
        return SimLink(broker, process)

    return connect
