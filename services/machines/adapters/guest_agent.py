"""The agent of a machine that is not leased yet, over gRPC with mutual TLS.

Every machine has an authority of its own. It signs the enrolment identity, which is in the warm snapshot, and then one
identity per lease, for a key that the agent made after the restore. Reaching an address proves nothing; a handshake
under a certificate of this machine's authority does.
"""

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc

from contracts.guest import agent_pb2 as pb
from contracts.guest.agent_pb2_grpc import AgentStub
from services.machines.adapters import canary, machine_authority
from services.machines.errors import GuestRefused, GuestUnreachable
from services.machines.ports import Attestation, Authority, Enrolment, GuestAddress

if TYPE_CHECKING:
    from contracts.guest.agent_pb2_grpc import AgentAsyncStub  # exists for type checkers only

PROTOCOL = 1
_MESSAGE_MAX_BYTES = 1024 * 1024
_CALL_TIMEOUT_S = 5.0
_ENROL_TIMEOUT_S = 30.0  # making a key takes seconds on an emulated processor
_RETRY_PAUSE_S = 0.03
_NONCE_BYTES = 32
_ENTROPY_BYTES = 256
_TEXT_MAX_CHARS = 200
_ITEMS_MAX = 32
_RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class _Lease:
    """What the agent is to be enrolled for."""

    machine_id: str
    lease_id: str
    epoch: int
    lifetime_s: int

    @property
    def identity(self) -> str:
        return machine_authority.lease_identity(self.machine_id, self.lease_id)

    @property
    def canary(self) -> bytes:
        return canary.of_lease(self.machine_id, self.lease_id, self.epoch)


class GrpcEnroller:
    """Implements GuestEnroller. The files are this service's own client identity and the authority that signed it."""

    def __init__(self, *, client_cert_file: Path, client_key_file: Path, client_ca_file: Path) -> None:
        self._cert_file = client_cert_file
        self._key_file = client_key_file
        self._ca_file = client_ca_file

    def create_authority(self, machine_id: str) -> Authority:
        """A fresh authority, its enrolment identity and the bundle for the guest. Raises OSError."""
        return machine_authority.create(machine_id, client_ca_pem=self._ca_file.read_text(encoding="ascii"))

    async def attest(
        self, address: GuestAddress, authority: Authority, machine_id: str, *, timeout_s: float
    ) -> Attestation:
        """The agent at `address` holds the enrolment key; what it says is returned. Waits until it answers."""
        identity = machine_authority.enrolment_identity(machine_id)
        end = time.monotonic() + timeout_s
        hello = await self._until(end, lambda: self._hello(address, authority, identity, end))
        if hello.machine_id != machine_id:
            raise GuestRefused("the agent says that it is another machine")
        return _attestation(hello)

    async def enrol(
        self,
        address: GuestAddress,
        authority: Authority,
        machine_id: str,
        *,
        lease_id: str,
        epoch: int,
        lifetime_s: int,
        timeout_s: float,
    ) -> Enrolment:
        """The agent now serves only this lease, under a certificate of its own.

        Sets the guest's clock and re-seeds its random generator on the way. Repeating it for the same lease is safe.
        """
        lease = _Lease(machine_id, lease_id, epoch, lifetime_s)
        end = time.monotonic() + timeout_s
        await self._until(end, lambda: self._install_once(address, authority, lease, end))
        hello = await self._until(end, lambda: self._prove_lease(address, authority, lease, end))
        places = tuple(_text(place) for place in hello.canary_places[:_ITEMS_MAX])
        return Enrolment(lease.identity, _text(hello.instance_id), canary_places=places)

    async def _install_once(self, address: GuestAddress, authority: Authority, lease: _Lease, end: float) -> None:
        try:
            await self._install(address, authority, lease, end)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _RETRYABLE or not await self._serves(address, authority, lease, end):
                raise

    async def _serves(self, address: GuestAddress, authority: Authority, lease: _Lease, end: float) -> bool:
        """Whether an earlier call, whose reply was lost, did it already."""
        try:
            hello = await self._hello(address, authority, lease.identity, end)
        except grpc.aio.AioRpcError:
            return False
        return bool(hello.lease_id == lease.lease_id)

    async def _prove_lease(
        self, address: GuestAddress, authority: Authority, lease: _Lease, end: float
    ) -> pb.HelloReply:
        hello = await self._hello(address, authority, lease.identity, end)
        if hello.lease_id != lease.lease_id:
            raise GuestRefused("the agent serves another lease")
        planted = dict.fromkeys(hello.canary_places, lease.canary)
        if not planted or dict(hello.canaries) != planted:
            raise GuestRefused(f"the canary was planted in {_names(planted)} and is found in {_names(hello.canaries)}")
        return hello

    async def _install(self, address: GuestAddress, authority: Authority, lease: _Lease, end: float) -> None:
        async with self._agent(address, authority, machine_authority.enrolment_identity(lease.machine_id)) as agent:
            reply = await agent.Enrol(
                pb.EnrolRequest(
                    machine_id=lease.machine_id,
                    lease_id=lease.lease_id,
                    epoch=lease.epoch,
                    server_identity=lease.identity,
                    entropy=secrets.token_bytes(_ENTROPY_BYTES),
                    wall_clock_ns=time.time_ns(),
                    canary=lease.canary,
                ),
                timeout=_left(end, _ENROL_TIMEOUT_S),
            )
            if reply is None:  # gRPC's word for bytes that are no message
                raise GuestRefused("what the agent sent is no message")
            certificate = machine_authority.sign(
                authority, reply.certificate_request_pem, identity=lease.identity, lifetime_s=lease.lifetime_s
            )
            install = pb.InstallRequest(lease_id=lease.lease_id, epoch=lease.epoch, certificate_pem=certificate)
            await agent.Install(install, timeout=_left(end, _CALL_TIMEOUT_S))

    async def _hello(self, address: GuestAddress, authority: Authority, identity: str, end: float) -> pb.HelloReply:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        async with self._agent(address, authority, identity) as agent:
            request = pb.HelloRequest(protocol=PROTOCOL, nonce=nonce)
            hello = await agent.Hello(request, timeout=_left(end, _CALL_TIMEOUT_S))
        if hello is None or not hmac.compare_digest(hello.nonce, nonce):
            raise GuestRefused("the agent did not repeat the nonce")
        if hello.protocol != PROTOCOL:
            raise GuestRefused(f"the agent speaks protocol {hello.protocol}, this host {PROTOCOL}: rebuild the image")
        return hello

    @asynccontextmanager
    async def _agent(
        self, address: GuestAddress, authority: Authority, identity: str
    ) -> AsyncIterator["AgentAsyncStub"]:
        """A connection of its own for each exchange: after a restore every older one is dead."""
        credentials = grpc.ssl_channel_credentials(
            root_certificates=authority.ca_cert_pem.encode(),
            private_key=self._key_file.read_bytes(),
            certificate_chain=self._cert_file.read_bytes(),
        )
        options = (
            ("grpc.ssl_target_name_override", identity),
            ("grpc.max_receive_message_length", _MESSAGE_MAX_BYTES),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
        )
        channel = grpc.aio.secure_channel(f"{address.host}:{address.port}", credentials, options=options)
        try:
            yield AgentStub(channel)
        finally:
            await channel.close()

    async def _until(self, end: float, exchange: Callable[[], Awaitable[Reply]]) -> Reply:
        """The exchange's outcome, tried again while nothing answers. Raises GuestUnreachable, GuestRefused."""
        while True:  # bounded by `end`
            try:
                return await exchange()
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {_text(error.details() or '')}"
                if error.code() not in _RETRYABLE:
                    raise GuestRefused(f"the agent refused: {reason}") from error
                if time.monotonic() + _RETRY_PAUSE_S >= end:
                    raise GuestUnreachable(f"the agent does not answer: {reason}") from error
                # The agent binds its port some moments after the machine runs; nothing announces it.
                await asyncio.sleep(_RETRY_PAUSE_S)


def _left(end: float, at_most_s: float) -> float:
    return max(0.05, min(at_most_s, end - time.monotonic()))


def _attestation(hello: pb.HelloReply) -> Attestation:
    return Attestation(
        agent_version=_text(hello.agent_version),
        boot_id=_text(hello.boot_id),
        is_fresh=hello.is_fresh,
        canaries=tuple(sorted(_text(place) for place in list(hello.canaries)[:_ITEMS_MAX])),
        capabilities=tuple(_text(item) for item in hello.capabilities[:_ITEMS_MAX]),
        settings={_text(name): _text(value) for name, value in list(hello.settings.items())[:_ITEMS_MAX]},
    )


def _names(places: Iterable[str]) -> str:
    return ", ".join(sorted(_text(place) for place in islice(places, _ITEMS_MAX))) or "no place"


def _text(value: str) -> str:
    return "".join(char for char in value[:_TEXT_MAX_CHARS] if char.isprintable())
