"""The network of a host without the network helper: no machine has an analysis card, and none can be given one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from contracts.submission import Route
from services.machines.domain.fence import Claim
from services.machines.errors import NetworkRefused
from services.machines.ports import Breach, CaptureTaken, Isolation, NetworkSeen

REMEDY = "this host can open no route but none: install Malbox as root, `malbox doctor` says what else is missing"


class AbsentNetwork:
    """Implements services.machines.ports.GuestNetwork where there is none."""

    async def routes(self) -> tuple[Route, ...]:
        """Nothing but none."""
        return ("none",)

    async def plug(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Path:  # noqa: ARG002 - the port's shape
        """Refused, with the remedy."""
        raise NetworkRefused(REMEDY)

    async def open(
        self,
        machine_id: str,  # noqa: ARG002
        *,
        epoch: int,  # noqa: ARG002
        lease_id: str,  # noqa: ARG002
        route: Route,  # noqa: ARG002
        claim: Claim | None = None,  # noqa: ARG002
    ) -> Isolation:
        """Refused, with the remedy."""
        raise NetworkRefused(REMEDY)

    async def verify(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Isolation:  # noqa: ARG002
        """Refused, with the remedy."""
        raise NetworkRefused(REMEDY)

    async def seal(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> CaptureTaken | None:  # noqa: ARG002
        """Nothing was recorded."""
        return None

    async def close(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """There is nothing to close."""

    async def observe(self) -> list[NetworkSeen]:
        """There is none."""
        return []

    async def fences(self) -> Mapping[str, int]:
        """Nobody ever acted."""
        return {}

    async def breaches(self) -> AsyncIterator[Breach]:
        """None ever comes."""
        await asyncio.Event().wait()
        yield Breach("", 0, "")
