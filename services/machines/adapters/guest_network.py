"""Guests' networks, asked of the privileged helper on this host: one packet each way over its unix socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from contracts.submission import Route
from services.machines.domain.fence import Claim
from services.machines.errors import IsolationBroken, NetworkRefused, NetworkUnavailable, StaleClaim, StaleEpoch
from services.machines.network.words import (
    PACKET_MAX_BYTES,
    Answer,
    Close,
    Fences,
    Inventory,
    Open,
    Plug,
    Problem,
    Request,
    Seal,
    Verify,
    Watch,
)
from services.machines.ports import Breach, CaptureTaken, Isolation, NetworkSeen

CALL_TIMEOUT_S = 60.0
_ERRORS: dict[Problem, type[Exception]] = {
    "stale": StaleEpoch,
    "overtaken": StaleClaim,
    "unknown": NetworkRefused,
    "refused": NetworkRefused,
    "failed": NetworkUnavailable,
    "breached": IsolationBroken,
}


class HelperNetwork:
    """Implements services.machines.ports.GuestNetwork."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def routes(self) -> tuple[Route, ...]:
        """What the helper can open."""
        return (await self._ask(Inventory())).routes

    async def plug(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Path:
        """A fresh cable that leads nowhere."""
        answer = await self._ask(Plug(machine_id=machine_id, epoch=epoch, claim=claim))
        return Path(answer.socket or "")

    async def open(
        self, machine_id: str, *, epoch: int, lease_id: str, route: Route, claim: Claim | None = None
    ) -> Isolation:
        """The machine is on the route, and the kernel was asked whether it is."""
        asked = Open(machine_id=machine_id, epoch=epoch, claim=claim, lease_id=lease_id, route=route)
        return _isolation(await self._ask(asked))

    async def verify(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Isolation:
        """The kernel has exactly what the route says."""
        return _isolation(await self._ask(Verify(machine_id=machine_id, epoch=epoch, claim=claim)))

    async def seal(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> CaptureTaken | None:
        """The record of packets is in the object store."""
        taken = (await self._ask(Seal(machine_id=machine_id, epoch=epoch, claim=claim))).capture
        return None if taken is None else CaptureTaken(taken.lease_id, taken.blob, taken.packets, taken.is_truncated)

    async def close(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """Nothing of the machine's network is left."""
        await self._ask(Close(machine_id=machine_id, epoch=epoch, claim=claim))

    async def observe(self) -> list[NetworkSeen]:
        """Every network there is."""
        standing = (await self._ask(Inventory())).networks
        return [NetworkSeen(one.machine_id, one.epoch, one.route) for one in standing]

    async def fences(self) -> Mapping[str, int]:
        """How high the helper's fences stand, asked for some at a time."""
        fences: dict[str, int] = {}
        while some := (await self._ask(Fences(after=max(fences, default=None)))).fences:
            fences |= some
        return fences

    async def breaches(self) -> AsyncIterator[Breach]:
        """Each breach as the helper sees it, until the connection is lost."""
        loop = asyncio.get_running_loop()
        with self._connected() as watching:
            await loop.sock_sendall(watching, Watch().model_dump_json().encode())
            while packet := await loop.sock_recv(watching, PACKET_MAX_BYTES):
                answer = _answer(packet)
                if answer.machine_id is not None and answer.epoch is not None:
                    yield Breach(answer.machine_id, answer.epoch, answer.reason, answer.lease_id)
        raise NetworkUnavailable("the network helper is gone")

    async def _ask(self, request: Request) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                with self._connected() as asking:
                    await loop.sock_sendall(asking, request.model_dump_json().encode())
                    answer = _answer(await loop.sock_recv(asking, PACKET_MAX_BYTES))
        except TimeoutError as error:
            raise NetworkUnavailable(f"the network helper did not answer within {CALL_TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise NetworkUnavailable(f"the network helper: {error.strerror}") from error
        if answer.problem is not None:
            raise _ERRORS[answer.problem](answer.reason)
        return answer

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(self._path))
        except OSError as error:
            connection.close()
            raise NetworkUnavailable(f"the network helper cannot be reached: {error.strerror}") from error
        connection.settimeout(0)
        return connection


def _answer(packet: bytes) -> Answer:
    try:
        return Answer.model_validate_json(packet)
    except ValidationError as error:
        raise NetworkUnavailable("the network helper hung up") from error


def _isolation(answer: Answer) -> Isolation:
    return Isolation(answer.rules_sha256 or "", answer.passed or 0, answer.dropped or 0)
