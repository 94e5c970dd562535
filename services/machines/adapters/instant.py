"""The instant hypervisor: a fake that ships. It makes no machine and runs nothing; every call succeeds at once.

With it the whole of Malbox can be driven without the time that virtual machines take: for the benchmarks of what is
around them. `hypervisor = "instant"` in the settings of the machines service chooses it; nothing else does.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.machines.adapters import instant_guest, machine_authority
from services.machines.adapters.host_fence import HostFence, highest_of_all
from services.machines.domain.fence import UNTOUCHED, Claim, Fence
from services.machines.domain.spec import MachineSpec
from services.machines.errors import HypervisorRefused
from services.machines.ports import (
    Attestation,
    Authority,
    Departure,
    DomainSeen,
    Enrolment,
    GuestAddress,
    Incarnation,
    Provisioned,
)

HOST = "127.0.0.1"
NOWHERE = GuestAddress(HOST, 1)
STOP_GRACE_S = 0.0


@dataclass
class _Machine:
    fence: Fence = UNTOUCHED
    life_epoch: int | None = None
    is_running: bool = False
    serving: asyncio.Task[tuple[grpc.aio.Server, int]] | None = None
    address: GuestAddress = NOWHERE


class InstantFleet:
    """Implements both ports of the machines service, Hypervisor and GuestEnroller, over machines that do not exist.

    Its machines end with its process. Their fences do not, where it is given a directory to keep them in.
    """

    def __init__(self, *, client_ca_pem: str, fences_dir: Path | None = None) -> None:
        self._client_ca_pem = client_ca_pem
        self._fences_dir = fences_dir
        self._machines: dict[str, _Machine] = {}
        self._change = asyncio.Event()
        self._stopping: set[asyncio.Task[None]] = set()
        self.absent_images: set[str] = set()
        """Names of images that are to be missing."""

    async def image_identity(self, spec: MachineSpec) -> str:
        """There is no image, so it never changes; it can be said to be absent."""
        if spec.image in self.absent_images:
            raise HypervisorRefused(f"there is no built image {spec.image}")
        return f"instant:{spec.image}"

    async def provision(
        self,
        spec: MachineSpec,
        *,
        epoch: int,
        enrolment: bytes,  # noqa: ARG002 - the port's shape
        agent_waits: Callable[[GuestAddress], Awaitable[None]],  # noqa: ARG002
        claim: Claim | None = None,
    ) -> Provisioned:
        """Nothing is built."""
        await self._fenced(spec.machine_id, epoch, claim)
        return Provisioned("none", {"fake": "instant"})

    async def restore(self, spec: MachineSpec, *, epoch: int, claim: Claim | None = None) -> Incarnation:
        """The machine is as if restored."""
        machine = await self._fenced(spec.machine_id, epoch, claim)
        await self._end(machine)
        machine.is_running, machine.life_epoch = True, epoch
        return Incarnation(machine.address, {"fake": "instant"})

    async def address(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> GuestAddress:
        """Where the fake agent listens, once it was enrolled."""
        machine = self._known(machine_id)
        machine.fence.refuse_older(machine_id, epoch, claim)
        return machine.address

    async def pause(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """The machine is as if standing still."""
        (await self._fenced(machine_id, epoch, claim)).is_running = False

    async def departures(self, machine_id: str, *, epoch: int) -> list[Departure]:
        """Nothing can differ in what does not exist."""
        await self._fenced(machine_id, epoch, None)
        return []

    async def resume(
        self,
        machine_id: str,
        *,
        epoch: int,
        grant: str,  # noqa: ARG002 - the port's shape
        claim: Claim | None = None,
    ) -> None:
        """The machine is as if running."""
        (await self._fenced(machine_id, epoch, claim)).is_running = True

    async def destroy(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """The fake agent is gone."""
        await self._end(await self._fenced(machine_id, epoch, claim))

    async def erase(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """The fake agent is gone; there is no snapshot."""
        await self._end(await self._fenced(machine_id, epoch, claim))

    async def halt(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """The fake agent is gone; there are no files to be left."""
        await self._end(await self._fenced(machine_id, epoch, claim))

    async def observe(self) -> list[DomainSeen]:
        """Every machine that is as if restored."""
        return [
            DomainSeen(
                name,
                name,
                machine.life_epoch,
                "running" if machine.is_running else "paused",
                None if machine.address == NOWHERE else machine.address,
            )
            for name, machine in self._machines.items()
            if machine.life_epoch is not None
        ]

    def put(self, machine_id: str, epoch: int, address: GuestAddress) -> None:
        """It is as if the machine had been restored for that epoch, and stood still, its agent at that address."""
        self._machines[machine_id] = _Machine(fence=Fence(epoch), life_epoch=epoch, address=address)

    async def fences(self) -> Mapping[str, int]:
        """What this process acted for; with a directory for them, what any did."""
        if self._fences_dir is not None:
            return await asyncio.to_thread(highest_of_all, self._fences_dir)
        return {name: machine.fence.epoch for name, machine in self._machines.items()}

    async def changed(self) -> None:
        """A machine is as if restored, changed or gone."""
        await self._change.wait()
        self._change.clear()

    async def discard(self, name: str) -> None:
        """The machine was never there."""
        machine = self._machines.pop(name, None)
        if machine is not None:
            await self._end(machine)

    async def close(self) -> None:
        """Every fake agent is gone."""
        for machine in self._machines.values():
            await self._end(machine)
        await asyncio.gather(*self._stopping)

    def create_authority(self, machine_id: str) -> Authority:
        """A real authority: certificates are checked here as everywhere."""
        return machine_authority.create(machine_id, client_ca_pem=self._client_ca_pem)

    async def attest(
        self,
        address: GuestAddress,  # noqa: ARG002 - the port's shape
        authority: Authority,  # noqa: ARG002
        machine_id: str,
        *,
        timeout_s: float,  # noqa: ARG002
    ) -> Attestation:
        """What a fresh agent would say."""
        epoch = self._known(machine_id).fence.epoch
        return Attestation(instant_guest.AGENT_VERSION, f"instant-{epoch}", is_fresh=True, capabilities=(), settings={})

    async def enrol(
        self,
        address: GuestAddress,  # noqa: ARG002 - the port's shape
        authority: Authority,
        machine_id: str,
        *,
        lease_id: str,
        epoch: int,  # noqa: ARG002
        lifetime_s: int,
        timeout_s: float,  # noqa: ARG002
    ) -> Enrolment:
        """A fake agent serves the lease, under a certificate of its own."""
        machine = self._known(machine_id)
        identity = machine_authority.lease_identity(machine_id, lease_id)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = machine_authority.sign(authority, _request(key), identity=identity, lifetime_s=lifetime_s)
        agent = instant_guest.Identity(
            machine_id=machine_id,
            lease_id=lease_id,
            key_pem=_key_pem(key),
            cert_pem=certificate,
            client_ca_pem=json.loads(authority.enrolment)["client_ca_pem"].encode(),
        )
        await self._stop(machine)
        machine.serving = asyncio.create_task(instant_guest.serve(agent, host=HOST))
        _, port = await asyncio.shield(machine.serving)
        machine.address = GuestAddress(HOST, port)
        self._change.set()
        return Enrolment(identity, secrets.token_hex(16))

    def _known(self, machine_id: str) -> _Machine:
        machine = self._machines.get(machine_id)
        if machine is None:
            raise HypervisorRefused(f"there is no machine {machine_id}")
        return machine

    async def _fenced(self, machine_id: str, epoch: int, claim: Claim | None) -> _Machine:
        machine = self._machines.setdefault(machine_id, _Machine())
        machine.fence.refuse_older(machine_id, epoch, claim)
        if self._fences_dir is not None:
            await asyncio.to_thread(HostFence(self._fences_dir / machine_id).advance, epoch, claim)
        machine.fence = machine.fence.raised(epoch, claim)
        self._change.set()
        return machine

    async def _end(self, machine: _Machine) -> None:
        machine.is_running, machine.life_epoch, machine.address = False, None, NOWHERE
        await self._stop(machine)

    async def _stop(self, machine: _Machine) -> None:
        """No agent serves. A server whose start or stop is cancelled half-way can never be stopped: both go on."""
        serving, machine.serving = machine.serving, None
        if serving is not None:
            stopping = asyncio.create_task(_stopped(serving))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)
            await asyncio.shield(stopping)


async def _stopped(serving: "asyncio.Task[tuple[grpc.aio.Server, int]]") -> None:
    await asyncio.wait({serving})
    if serving.exception() is None:
        server, _ = serving.result()
        await server.stop(STOP_GRACE_S)


def _request(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "instant")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
