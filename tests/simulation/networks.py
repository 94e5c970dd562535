"""The network helper as one process of the machines service reaches it: late, and at times not at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from services.machines.adapters.memory_network import MemoryNetwork
from services.machines.errors import NetworkUnavailable
from services.machines.ports import Breach
from tests.simulation.world import SimWorld


class SimNetwork:
    """Implements services.machines.ports.GuestNetwork by the host's one network in memory."""

    def __init__(self, world: SimWorld, networks: MemoryNetwork) -> None:
        self._world = world
        self._networks = networks

    def breaches(self) -> AsyncIterator[Breach]:
        """Each breach, as soon as it is seen."""
        return self._networks.breaches()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """The port's other calls: each takes a moment. They raise NetworkUnavailable while the helper is away."""
        call = getattr(self._networks, name)
        world = self._world

        async def reached(*arguments: Any, **named: Any) -> Any:
            await asyncio.sleep(world.rng.random() * 0.02)
            if world.is_network_down:
                world.counts["network_unreachable"] += 1
                raise NetworkUnavailable("the network helper cannot be reached")
            return await call(*arguments, **named)

        return reached
