"""What the machines service asks of the outside world: a hypervisor, and the agent inside a guest."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from contracts.blobs import BlobRef
from contracts.machines import Acceleration
from contracts.submission import Route
from services.machines.domain.fence import Claim
from services.machines.domain.spec import MachineSpec


@dataclass(frozen=True)
class GuestAddress:
    """Where an agent may be listening; proves nothing by itself."""

    host: str
    port: int


@dataclass(frozen=True)
class Provisioned:
    """A warm snapshot stands. `evidence` holds digests (sha256 hex) of the base image and of the memory image."""

    acceleration: Acceleration
    evidence: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Incarnation:
    """A fresh hypervisor process on a fresh overlay, running, its agent about to answer at `address`."""

    address: GuestAddress
    evidence: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DomainSeen:
    """One domain that the hypervisor has, whoever made it.

    `machine_id` is what our prefix on its name leaves, and None without it; `epoch` is None unless it says whose it is.
    `address` is where its own definition lets its agent be reached; None when it has no such place.
    """

    name: str
    machine_id: str | None
    epoch: int | None
    state: Literal["running", "paused", "off", "other"]
    address: GuestAddress | None = None


@dataclass(frozen=True)
class Departure:
    """One way in which what stands ready is not what was verified: which kind of thing differs, and a sentence."""

    kind: Literal["domain", "process", "processors", "port", "files", "snapshot"]
    reason: str


class Hypervisor(Protocol):
    """Makes and unmakes machines. Every call may be repeated; a call with an older epoch than one seen is refused.

    So is one under an older claim of that epoch's work; whoever only watches has no `claim`, and acts for the epoch.

    Raises HypervisorUnavailable (transient) when it cannot be reached, HypervisorRefused (permanent) when it said no,
    StaleEpoch or StaleClaim when the host's fence stands higher, DigestMismatch when a file that machines are made of
    was changed: that is a matter for an operator, and no repetition may hide it.
    """

    async def image_identity(self, spec: MachineSpec) -> str:
        """The digest of the built image that the machine starts from; another identity means another image.

        Raises HypervisorRefused when there is no such image.
        """

    async def provision(
        self,
        spec: MachineSpec,
        *,
        epoch: int,
        enrolment: bytes,
        agent_waits: Callable[[GuestAddress], Awaitable[None]],
        claim: Claim | None = None,
    ) -> Provisioned:
        """Image, disk and warm snapshot are built; an interrupted earlier build is thrown away first.

        `enrolment` is what the guest's agent reads at its first start (JSON, under 16 KiB); `agent_waits` returns when
        the agent answers at the given address. Raises GuestMute when a guest that runs has no agent after all.
        """

    async def restore(self, spec: MachineSpec, *, epoch: int, claim: Claim | None = None) -> Incarnation:
        """A fresh process on a fresh overlay runs from the warm snapshot."""

    async def address(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> GuestAddress:
        """Where the running or paused incarnation's agent may be reached, asked of the hypervisor itself."""

    async def pause(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """The machine's processors stand still, and how everything stands then is recorded on the host."""

    async def departures(self, machine_id: str, *, epoch: int) -> list[Departure]:
        """In what a machine that stands ready differs from what was verified; empty when it is that.

        `epoch` is the ready machine's own. What older incarnations left is removed, and a fence that was lost stands
        again; one that stands higher raises StaleEpoch.
        """

    async def resume(self, machine_id: str, *, epoch: int, grant: str, claim: Claim | None = None) -> None:
        """The machine's processors run, for that grant of a lease; repeating it changes nothing.

        Raises HypervisorRefused when the machine differs from what was verified, or ran for another grant: a store
        that was restored from a backup gives an epoch twice.
        """

    async def destroy(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """No process of the machine exists, and no overlay, socket or definition of any epoch below `epoch`.

        Raises Unstoppable when a process does not end: then everything stays as it is.
        """

    async def erase(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """Nothing of the machine is left, its warm snapshot included, but its fence. Raises Unstoppable."""

    async def halt(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """No process of the machine exists; its files are left as they are, to be looked at. Raises Unstoppable."""

    async def observe(self) -> list[DomainSeen]:
        """Every domain there is. Raises HypervisorUnavailable rather than answer with half a list."""

    async def fences(self) -> Mapping[str, int]:
        """The highest epoch that this host acted for, of each machine that it ever acted for."""

    async def changed(self) -> None:
        """Some domain began, ended or changed since this was last awaited; it may also have been nothing."""

    async def discard(self, name: str) -> None:
        """There is no domain of that name, which bears our prefix and is no machine's. No file is touched."""

    async def close(self) -> None:
        """Connections are closed; machines run on."""


@dataclass(frozen=True)
class Authority:
    """The certificate authority of one machine and the enrolment identity that its warm snapshot holds. All PEM."""

    ca_cert_pem: str
    ca_key_pem: str
    enrolment: bytes


@dataclass(frozen=True)
class Attestation:
    """What an agent proved and said in its handshake. The strings are the guest's own words, bounded.

    `canaries` are the places where it finds one of an earlier lease.
    """

    agent_version: str
    boot_id: str
    is_fresh: bool
    capabilities: tuple[str, ...]
    settings: dict[str, str]
    canaries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Enrolment:
    """An agent that serves one lease: the DNS name in its certificate, and the name it drew for itself since then.

    The instance id comes from the guest's random generator after the host re-seeded it: every incarnation is restored
    from the same memory, so one that is seen twice is a copy, and its keys are too. The guest's words, bounded.
    `canary_places` are where this lease's canary was planted, and found again.
    """

    server_identity: str
    instance_id: str
    canary_places: tuple[str, ...] = ()


class GuestEnroller(Protocol):
    """Speaks to the agent of a machine that is not leased yet. Raises GuestUnreachable, GuestRefused."""

    def create_authority(self, machine_id: str) -> Authority:
        """A fresh authority, its enrolment identity and the bundle for the guest."""

    async def attest(
        self, address: GuestAddress, authority: Authority, machine_id: str, *, timeout_s: float
    ) -> Attestation:
        """The agent at `address` holds the enrolment key; what it says is returned. Waits until it answers."""

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

        Sets the guest's clock and re-seeds its random generator on the way.
        """


@dataclass(frozen=True)
class Isolation:
    """What the kernel was seen to have for a machine, and what came of the guest's frames so far."""

    rules_sha256: str
    passed: int
    dropped: int


@dataclass(frozen=True)
class CaptureTaken:
    """A record of a guest's packets, in the object store."""

    lease_id: str
    blob: BlobRef
    packets: int
    is_truncated: bool


@dataclass(frozen=True)
class NetworkSeen:
    """One machine's network."""

    machine_id: str
    epoch: int
    route: Route


@dataclass(frozen=True)
class Breach:
    """A machine whose network is no longer what its route says: of which epoch, and open for which lease, if any."""

    machine_id: str
    epoch: int
    reason: str
    lease_id: str | None = None


class GuestNetwork(Protocol):
    """Makes and unmakes analysis networks. Every call may be repeated; one with an older epoch or claim is refused.

    Raises NetworkUnavailable (transient), NetworkRefused when there is no such network or it cannot be had here,
    StaleEpoch when a later owner acted, StaleClaim when a later worker of this one did, IsolationBroken when the kernel
    has something else than it must.
    """

    async def routes(self) -> tuple[Route, ...]:
        """What machines of this host can be given."""

    async def plug(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Path:
        """A fresh network that lets nothing pass stands; the socket that the machine's analysis card connects to."""

    async def open(
        self, machine_id: str, *, epoch: int, lease_id: str, route: Route, claim: Claim | None = None
    ) -> Isolation:
        """The plugged network is on the route, was seen to be, and on any but none is recorded. Fails closed."""

    async def verify(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Isolation:
        """The network is exactly what its route says."""

    async def seal(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> CaptureTaken | None:
        """Recording has ended; the record is in the object store. None when nothing was recorded."""

    async def close(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """Nothing of the machine's network is left."""

    async def observe(self) -> list[NetworkSeen]:
        """Every network there is."""

    async def fences(self) -> Mapping[str, int]:
        """The highest epoch that was acted for, of each machine that ever had a network here."""

    def breaches(self) -> AsyncIterator[Breach]:
        """Each breach, as soon as it is seen. Ends with NetworkUnavailable when nobody watches any more."""
