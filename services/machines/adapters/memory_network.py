"""Guests' networks in memory: a fake that keeps the port's promises and moves no packet."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.blobs import BlobRef
from contracts.submission import Route
from services.machines.domain.fence import UNTOUCHED, Claim, Fence
from services.machines.errors import IsolationBroken, NetworkRefused, NetworkUnavailable
from services.machines.network.layout import socket_name
from services.machines.ports import Breach, CaptureTaken, Isolation, NetworkSeen

EMPTY_RECORD = bytes(24)


@dataclass
class _Network:
    epoch: int
    route: Route = "none"
    lease_id: str | None = None
    fault: str = ""


class MemoryNetwork:
    """Implements services.machines.ports.GuestNetwork. `break_isolation` is what somebody does to a real one."""

    def __init__(self, routes: tuple[Route, ...] = ("none", "simulated", "internet")) -> None:
        self._routes = routes
        self._fences: dict[str, Fence] = {}
        self._networks: dict[str, _Network] = {}
        self._watchers: list[asyncio.Queue[Breach]] = []

    async def routes(self) -> tuple[Route, ...]:
        """Those that it was made with."""
        return self._routes

    async def plug(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Path:
        """A fresh network that leads nowhere."""
        self._advance(machine_id, epoch, claim)
        self._networks[machine_id] = _Network(epoch)
        return Path("/memory") / socket_name(machine_id)

    async def open(
        self, machine_id: str, *, epoch: int, lease_id: str, route: Route, claim: Claim | None = None
    ) -> Isolation:
        """The network is on the route; a network that was broken is gone."""
        self._advance(machine_id, epoch, claim)
        network = self._of(machine_id)
        if network.lease_id is not None:
            if (network.lease_id, network.route, network.epoch) != (lease_id, route, epoch):
                raise NetworkUnavailable(f"{machine_id} is open for lease {network.lease_id} on {network.route}")
            return self._isolation(network)
        if route not in self._routes:
            del self._networks[machine_id]
            raise NetworkUnavailable(f"this host does not offer the route {route}")
        self._isolation(network)
        network.epoch, network.lease_id, network.route = epoch, lease_id, route
        return self._isolation(network)

    async def verify(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Isolation:
        """The network is as it was made."""
        self._fence(machine_id).refuse_older(machine_id, epoch, claim)
        return self._isolation(self._of(machine_id))

    async def seal(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> CaptureTaken | None:
        """A record without packets, once a route other than none is open."""
        self._advance(machine_id, epoch, claim)
        network = self._networks.get(machine_id)
        if network is None or network.lease_id is None or network.route == "none":
            return None
        digest = hashlib.sha256(EMPTY_RECORD).hexdigest()
        return CaptureTaken(network.lease_id, BlobRef(sha256=digest, size_bytes=len(EMPTY_RECORD)), 0, False)  # noqa: FBT003

    async def close(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """The network is gone."""
        self._advance(machine_id, epoch, claim)
        self._networks.pop(machine_id, None)

    async def observe(self) -> list[NetworkSeen]:
        """Every network there is."""
        return [NetworkSeen(name, network.epoch, network.route) for name, network in self._networks.items()]

    async def fences(self) -> Mapping[str, int]:
        """The highest epoch of each machine that was ever plugged."""
        return {name: fence.epoch for name, fence in self._fences.items()}

    async def breaches(self) -> AsyncIterator[Breach]:
        """Each breach."""
        heard: asyncio.Queue[Breach] = asyncio.Queue()
        self._watchers.append(heard)
        try:
            while True:
                yield await heard.get()
        finally:
            self._watchers.remove(heard)

    def break_isolation(self, machine_id: str, reason: str) -> None:
        """Somebody changed the machine's rules."""
        network = self._networks[machine_id]
        network.fault = reason
        self.tell(machine_id, network.epoch, reason, network.lease_id)

    def tell(self, machine_id: str, epoch: int, reason: str, lease_id: str | None) -> None:
        """Whoever watches hears of the breach."""
        for watcher in self._watchers:
            watcher.put_nowait(Breach(machine_id, epoch, reason, lease_id))

    def open_networks(self) -> dict[str, str | None]:
        """The lease that each machine's network is open for, if any, by machine."""
        return {name: network.lease_id for name, network in self._networks.items()}

    def lose(self) -> None:
        """Every network is gone, as when the helper was killed; the fences stand."""
        self._networks.clear()

    def _isolation(self, network: _Network) -> Isolation:
        if network.fault:
            raise IsolationBroken(network.fault)
        return Isolation(hashlib.sha256(network.route.encode()).hexdigest(), 0, 0)

    def _of(self, machine_id: str) -> _Network:
        network = self._networks.get(machine_id)
        if network is None:
            raise NetworkRefused("the machine has no network of that epoch")
        return network

    def _fence(self, machine_id: str) -> Fence:
        return self._fences.get(machine_id, UNTOUCHED)

    def _advance(self, machine_id: str, epoch: int, claim: Claim | None) -> None:
        stood = self._fence(machine_id)
        stood.refuse_older(machine_id, epoch, claim)
        self._fences[machine_id] = stood.raised(epoch, claim)
