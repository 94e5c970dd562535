"""What a machine's events add up to: the fields of its record, and what can be read off them."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from contracts.ids import derived, uuid_of
from contracts.machines import Acceleration, ExpiryCause, GuestEndpoint, LeaseRef, MachineSummary
from contracts.submission import Route
from services.machines.domain.lifecycle import NEW_EPOCH, State, successor
from services.machines.domain.spec import MachineSpec

LEASES_KEPT_MAX = 64
"""How many ended leases a machine remembers: an order for one of them that is repeated meets its recorded outcome."""

QuarantineCause = Literal["failures", "divergence", "digest_mismatch", "isolation_breached", "operator"]
"""Why a machine is out of the pool. The first two may be cured by building it again; the others are for a person."""

SELF_CURED: frozenset[QuarantineCause] = frozenset({"failures", "divergence"})
SELF_CURES_MAX = 2


class NotPossible(Exception):
    """The machine's state does not allow this; nothing was changed. The message says why."""


@dataclass(frozen=True)
class Lease:
    """One lease, from its grant on. `ending` is empty while it lasts; versions are those of the events that said so."""

    operation_id: str
    task_id: str
    lease_id: str
    epoch: int
    route: Route
    hard_deadline_at: datetime
    term: int = 1
    attested_version: int = 0
    ending: Literal["", "released"] | ExpiryCause = ""
    ended_version: int = 0
    ended_epoch: int = 0
    reason: str = ""

    @property
    def grant(self) -> str:
        """This grant and no other: a restored store may grant the same lease again, but not at the same instant."""
        return f"{self.operation_id} until {self.hard_deadline_at.isoformat()}"


@dataclass(frozen=True)
class Wish:
    """What a machine is to become once it is clean and nobody's."""

    spec: MachineSpec
    image_identity: str
    reason: str


@dataclass(frozen=True)
class Word:
    """What an operator asked for: who, and why."""

    by: str
    reason: str


class Record:
    """The state of one machine. Only its events change it."""

    def begin(self, spec: MachineSpec) -> None:
        """A machine of which nothing else is known."""
        self.spec = spec
        self.state: State = "registered"
        self.since: datetime | None = None
        self.epoch = 0
        self.failures = 0
        self.cleaning_failures = 0
        self.unprepared = 0
        """So many leases in a row ended because the machine could not be made ready for them."""
        self.rebuilds = 0
        self.self_cures = 0
        self.drifts: dict[str, int] = {}
        self.needs_rebuild = True
        self.acceleration: Acceleration = "none"
        self.image_identity = ""
        self.wish: Wish | None = None
        self.drain: Word | None = None
        self.current: Lease | None = None
        self.leases: tuple[Lease, ...] = ()
        self.endpoint: GuestEndpoint | None = None
        self.next_endpoint: GuestEndpoint | None = None
        self.verified_version = 0
        self.repaired_version = 0
        self.verified_at: datetime | None = None
        self.last_task_id: str | None = None
        self.quarantine_cause: QuarantineCause | None = None
        self.quarantine_reason = ""
        self.quarantined_version = 0

    @staticmethod
    def stream(machine_id: str) -> UUID:
        """The id of the machine's event stream; also the fixed UUID of its domain."""
        return uuid_of(machine_id)

    @property
    def machine_id(self) -> str:
        """The machine's name."""
        return self.spec.machine_id

    @property
    def task_id(self) -> str | None:
        """The task that owns the machine."""
        return self.current.task_id if self.current else None

    @property
    def lease_id(self) -> str | None:
        """The current lease."""
        return self.current.lease_id if self.current else None

    @property
    def hard_deadline_at(self) -> datetime | None:
        """When the current lease ends whatever happens."""
        return self.current.hard_deadline_at if self.current else None

    @property
    def route(self) -> Route:
        """What the guest of the current lease may reach."""
        return self.current.route if self.current else "none"

    @property
    def lease(self) -> LeaseRef | None:
        """The current lease, as calls into the guest and every release carry it."""
        if self.current is None:
            return None
        return LeaseRef(
            lease_id=self.current.lease_id, machine_id=self.machine_id, epoch=self.epoch, term=self.current.term
        )

    @property
    def next_lease_id(self) -> str:
        """The lease that the next epoch will be, if the machine is leased then."""
        return derived("lea", self.machine_id, self.epoch + 1)

    @property
    def incarnation_epoch(self) -> int:
        """The epoch that the domain carries: it was restored for the verification, one epoch before the lease."""
        return self.epoch - 1 if self.current else self.epoch

    @property
    def cures_itself(self) -> bool:
        """Whether the quarantine may end by building the machine again without an operator."""
        return self.state == "quarantined" and self.quarantine_cause in SELF_CURED and self.self_cures < SELF_CURES_MAX

    def is_broken_through(self, epoch: int, lease_id: str | None) -> bool:
        """Whether whoever broke out of the network of that epoch and lease was this lease's guest, or the last one's.

        A guest whose machine was verified clean since, or is a person's matter already, is not judged again. A lease
        that is not remembered counts if its epoch is not over: the store may be older than the host.
        """
        if self.current is not None:
            return epoch >= self.incarnation_epoch
        if self.state not in ("provisioning", "verifying", "ready", "cleaning") and not self.cures_itself:
            return False
        ended = self.ended(lease_id) if lease_id is not None else None
        if ended is None:
            return lease_id is not None and epoch >= self.epoch
        return ended.ended_version > self.verified_version

    @property
    def has_unseen_network(self) -> bool:
        """Whether the guest of the last lease may have got through its walls without anybody's having seen it.

        Its network is to be looked at before it goes: also where the record was restored, and may have forgotten the
        lease. One that was quarantined for that is not looked at again.
        """
        if self.state != "quarantined":
            return self.last_task_id is not None or self.repaired_version > self.verified_version
        is_known = self.quarantine_cause == "isolation_breached"
        return not is_known and bool(self.leases) and self.leases[-1].ended_version > self.verified_version

    @property
    def has_served(self) -> bool:
        """Whether the lease that it is to be clean of had a guest: one that was never prepared earns no trust."""
        return self.last_task_id is not None and bool(self.leases) and self.leases[-1].attested_version > 0

    def summary(self) -> MachineSummary:
        """What other services may know of it."""
        return self.spec.summary(self.acceleration)

    def lease_of(self, operation_id: str) -> Lease | None:
        """The lease that the operation was granted, current or ended."""
        known = (*self.leases, *((self.current,) if self.current else ()))
        return next((lease for lease in known if lease.operation_id == operation_id), None)

    def ended(self, lease_id: str) -> Lease | None:
        """The ended lease of that id, as long as it is remembered."""
        return next((lease for lease in self.leases if lease.lease_id == lease_id), None)

    def move(self, event: str, at: datetime) -> None:
        """The state is what the table says. Raises NotPossible."""
        state = successor(self.state, event)
        if state is None:
            raise NotPossible(f"{event} in {self.state}")
        if state != self.state or event in NEW_EPOCH:
            self.since = at
        self.state = state
        if event in NEW_EPOCH:
            self.epoch += 1

    def end_lease(self, ending: Literal["released"] | ExpiryCause, reason: str, version: int) -> None:
        """Nobody owns the machine any more; who did is remembered until it is verified clean."""
        if self.current is not None:
            ended = replace(self.current, ending=ending, reason=reason, ended_version=version, ended_epoch=self.epoch)
            self.leases = (*self.leases, ended)[-LEASES_KEPT_MAX:]
            self.last_task_id = self.current.task_id
        self.current = self.endpoint = None

    def leave_quarantine(self) -> None:
        """The machine is on its way back."""
        self.quarantine_cause = None

    def trust_anew(self) -> None:
        """What went wrong before counts no longer."""
        self.failures = self.cleaning_failures = self.unprepared = self.rebuilds = self.self_cures = 0
        self.drifts = {}
