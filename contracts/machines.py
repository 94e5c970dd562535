"""What machines says."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.blobs import BlobRef
from contracts.envelope import Message
from contracts.ids import LeaseId, MachineId, TaskId
from contracts.submission import Platform, Route, offer

Acceleration = Literal["kvm", "tcg", "none"]


ExpiryCause = Literal[
    "deadline",
    "collection_deadline",
    "guest_lost",
    "not_prepared",
    "lease_lost",
    "isolation_breached",
    "withdrawn",
]
"""Why a lease ended without its owner's word.

`deadline`: the lease's hard one; `collection_deadline`: evidence was collected for too long; `guest_lost`: the virtual
machine is gone; `not_prepared`: it never served; `lease_lost`: nobody drove the lease any more, or the record of it was
lost; `isolation_breached`: the guest got through its walls; `withdrawn`: an operator took the machine.
"""


class GuestEndpoint(BaseModel):
    """Where the agent of one incarnation listens, and how a caller proves that it reached that one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    scheme: Literal["tcp", "vsock"]
    host: str
    port: int = Field(gt=0)
    server_identity: str = Field(description="DNS name in the agent's certificate for this lease")
    ca_pem: str = Field(description="certificate of this machine's authority, PEM; public")


class LeaseRef(BaseModel):
    """Whose a machine is: every call into the guest and every release carries these three."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lease_id: LeaseId
    machine_id: MachineId
    epoch: int = Field(ge=0)
    term: int = Field(ge=0)


class MachineSummary(BaseModel):
    """What others may know of a machine when they choose one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    machine_id: MachineId
    host: str
    profile: str
    platform: Platform
    arch: str
    tags: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ("none",)
    has_guest_access: bool = True
    acceleration: Acceleration = "none"
    accepts_untrusted: bool = Field(
        default=False, description="samples marked untrusted may run here: on KVM, or because the operator says so"
    )

    @property
    def offers(self) -> tuple[str, ...]:
        """Every `AnalysisRequest.terms` that the machine can meet."""
        kinds = (False, True) if self.accepts_untrusted else (False,)
        return tuple(offer(route, untrusted=kind) for kind in kinds for route in self.routes)


class MachineFact(Message):
    """A fact about one machine, at one epoch of its ownership."""

    PRODUCER: ClassVar[str] = "machines"
    THING: ClassVar[str] = "machine"

    machine_id: MachineId
    epoch: int = Field(ge=0)

    def subject(self) -> str:
        """The machine."""
        return self.machine_id


class MachineRegistered(MachineFact):
    """The machine is known and not trusted yet. Said again at every start of the service."""

    WHAT: ClassVar[str] = "registered"
    machine: MachineSummary
    state: str = "registered"


class MachineProvisioned(MachineFact):
    """Image, disk and warm snapshot stand; the evidence of clean is still to be taken."""

    WHAT: ClassVar[str] = "provisioned"
    acceleration: Acceleration


class MachineLeased(MachineFact):
    """The task owns the machine; the agent of this lease was proven and waits."""

    WHAT: ClassVar[str] = "leased"
    task_id: TaskId
    lease: LeaseRef
    endpoint: GuestEndpoint
    platform: Platform
    acceleration: Acceleration = "none"
    hard_deadline_at: datetime
    host: str | None = Field(default=None, description="whose machine it is; None in messages of older releases")


class CaptureStored(MachineFact):
    """What crossed the guest's analysis card during the lease is in the object store, in libpcap's format."""

    WHAT: ClassVar[str] = "capture-stored"
    task_id: TaskId
    lease_id: LeaseId
    blob: BlobRef
    packets: int = Field(ge=0)
    is_truncated: bool = Field(description="the record reached its bound before the lease ended")


class LeaseRefused(MachineFact):
    """The machine is not to be had for this task now."""

    WHAT: ClassVar[str] = "lease-refused"
    task_id: TaskId
    operation_id: str
    reason: str


class LeaseExpired(MachineFact):
    """The lease reached its hard deadline or lost its guest; the machine is being cleaned."""

    WHAT: ClassVar[str] = "lease-expired"
    task_id: TaskId
    lease_id: LeaseId
    cause: ExpiryCause
    reason: str


class MachineReleased(MachineFact):
    """The task gave the machine back."""

    WHAT: ClassVar[str] = "released"
    task_id: TaskId
    lease_id: LeaseId


class MachineReverting(MachineFact):
    """The incarnation is being destroyed and a fresh one restored."""

    WHAT: ClassVar[str] = "reverting"
    task_id: TaskId | None = None
    reason: str


class MachineReverted(MachineFact):
    """Verified clean and leasable. `task_id` names the last task whose traces are gone."""

    WHAT: ClassVar[str] = "reverted"
    task_id: TaskId | None = None
    machine: MachineSummary
    evidence: dict[str, Any]


class RevertFailed(MachineFact):
    """One attempt at cleaning or verifying failed; another follows, or quarantine."""

    WHAT: ClassVar[str] = "revert-failed"
    task_id: TaskId | None = None
    reason: str
    attempt: int


class MachineQuarantined(MachineFact):
    """Out of the pool, its evidence kept, until somebody decides."""

    WHAT: ClassVar[str] = "quarantined"
    task_id: TaskId | None = None
    reason: str


class MachineWithdrawn(MachineFact):
    """Out of the pool by an operator's word, until it is returned."""

    WHAT: ClassVar[str] = "withdrawn"
    by: str
    reason: str


class MachineRestored(MachineFact):
    """An operator gave it back, from maintenance or quarantine; it is cleaned and verified before anybody gets it."""

    WHAT: ClassVar[str] = "restored"
    by: str
    reason: str


class MachineDrifted(MachineFact):
    """What runs is not what the record says; the machine is being cleaned."""

    WHAT: ClassVar[str] = "drifted"
    reason: str


class MachineRetired(MachineFact):
    """Gone for good, by an operator's word."""

    WHAT: ClassVar[str] = "retired"
    reason: str
