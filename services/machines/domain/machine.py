"""The machine aggregate: what its events say is who owns it. Pure: instants and outcomes are handed in."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from contracts.machines import Acceleration, ExpiryCause, GuestEndpoint
from contracts.submission import Route
from services.machines.domain import events
from services.machines.domain.lifecycle import LEASED, successor
from services.machines.domain.record import SELF_CURED, NotPossible, QuarantineCause, Record
from services.machines.domain.spec import MachineSpec

__all__ = ["Machine", "NotPossible"]

FAILURES_MAX = 3
REBUILDS_MAX = 2
DRIFTS_MAX = 3
ADOPTIONS_MAX = 3


class Machine(Record, Aggregate):
    """One machine. `epoch` grows with every change of owner and never falls."""

    TOPIC: ClassVar[str] = "machine"

    Event = events.Event
    Registered = events.Registered
    SpecRequested = events.SpecRequested
    SpecChanged = events.SpecChanged
    ProvisioningStarted = events.ProvisioningStarted
    Provisioned = events.Provisioned
    ProvisioningFailed = events.ProvisioningFailed
    CleanVerified = events.CleanVerified
    VerificationFailed = events.VerificationFailed
    Leased = events.Leased
    LeaseAdopted = events.LeaseAdopted
    GuestAttested = events.GuestAttested
    DrainingStarted = events.DrainingStarted
    Released = events.Released
    LeaseExpired = events.LeaseExpired
    IsolationBreached = events.IsolationBreached
    DriftSeen = events.DriftSeen
    EvidenceExpired = events.EvidenceExpired
    Cleaned = events.Cleaned
    CleaningFailed = events.CleaningFailed
    Quarantined = events.Quarantined
    DrainRequested = events.DrainRequested
    DrainCancelled = events.DrainCancelled
    MaintenanceStarted = events.MaintenanceStarted
    Returned = events.Returned
    EpochRepaired = events.EpochRepaired
    Retired = events.Retired

    def __init__(self, spec: dict[str, Any]) -> None:
        self.begin(MachineSpec.model_validate(spec))

    @classmethod
    def register(cls, spec: MachineSpec, at: datetime) -> "Machine":
        """A machine that is known and not trusted."""
        return cls._create(
            cls.Registered, id=cls.stream(spec.machine_id), timestamp=at, spec=spec.model_dump(mode="json")
        )

    def want(self, spec: MachineSpec, image_identity: str, at: datetime) -> None:
        """The machine is, or will be as soon as it is clean and nobody's, of that specification and image."""
        wanted = (spec, image_identity)
        standing = (self.wish.spec, self.wish.image_identity) if self.wish else (self.spec, self.image_identity)
        if wanted == standing:
            return
        reason = "the image was rebuilt" if spec == self.spec else "the specification changed"
        is_free = self.state in ("registered", "ready") or (
            self.state == "quarantined" and self.quarantine_cause in SELF_CURED
        )
        kind = self.SpecChanged if is_free else self.SpecRequested
        self._happen(kind, at, spec=spec.model_dump(mode="json"), image_identity=image_identity, reason=reason)

    def start_provisioning(self, reason: str, at: datetime, image_identity: str | None = None, by: str = "") -> None:
        """The build begins, from nothing, of that image (None: the one that it was made of before)."""
        if self.state == "quarantined" and not by and not self.cures_itself:
            raise NotPossible(f"{self.machine_id} is quarantined ({self.quarantine_cause}): an operator decides")
        identity = self.image_identity if image_identity is None else image_identity
        self._happen(self.ProvisioningStarted, at, reason=reason, image_identity=identity, by=by)

    def rebuild(self, by: str, reason: str, at: datetime) -> None:
        """An operator has a quarantined machine built from nothing. Raises NotPossible in any other state."""
        if self.state != "quarantined":
            raise NotPossible(f"machine {self.machine_id} is {self.state}: only a quarantined one is rebuilt")
        self.start_provisioning(reason, at, by=by)

    def complete_provisioning(
        self, *, acceleration: Acceleration, image_identity: str, evidence: dict[str, str], at: datetime
    ) -> None:
        """The build succeeded."""
        self._happen(self.Provisioned, at, acceleration=acceleration, image_identity=image_identity, evidence=evidence)

    def fail_provisioning(self, reason: str, at: datetime) -> None:
        """The build failed or is late: once more after cleaning, twice at most, then quarantine."""
        if self.state == "provisioning" and self.rebuilds > REBUILDS_MAX:
            self.quarantine(f"could not be built {self.rebuilds} times: {reason}", at)
        else:
            self._happen(self.ProvisioningFailed, at, reason=reason)

    def verify_clean(self, evidence: dict[str, str], at: datetime, endpoint: GuestEndpoint | None = None) -> None:
        """Clean, with evidence; the agent at the endpoint is enrolled for the next lease.

        What an operator or a new specification waited for happens at once.
        """
        shown = endpoint.model_dump(mode="json") if endpoint else None
        digest = events.evidence_digest(evidence)
        self._happen(
            self.CleanVerified,
            at,
            evidence=evidence,
            evidence_sha256=digest,
            task_id=self.last_task_id,
            has_served=self.has_served,
            endpoint=shown,
        )
        if self.drain is not None:
            self._happen(self.MaintenanceStarted, at, by=self.drain.by, reason=self.drain.reason)
        else:
            self._fulfil_wish(at)

    def fail_verification(self, reason: str, at: datetime) -> None:
        """No evidence: clean again; the third time quarantine."""
        if self.state == "verifying" and self.failures + 1 >= FAILURES_MAX:
            self.quarantine(f"never verified clean: {reason}", at)
        else:
            self._happen(self.VerificationFailed, at, reason=reason)

    def lease_to(
        self,
        task_id: str,
        *,
        operation_id: str,
        hold_s: int,
        at: datetime,
        route: Route = "none",
        owner: str | None = None,
    ) -> None:
        """The task owns the machine. Repeating an operation that was granted changes nothing. Raises NotPossible."""
        if self.lease_of(operation_id) is not None:
            return
        self._happen(
            self.Leased,
            at,
            task_id=task_id,
            lease_id=self.next_lease_id,
            operation_id=operation_id,
            hard_deadline_at=at + timedelta(seconds=hold_s),
            route=route,
            owner=owner,
        )

    def attest(self, endpoint: GuestEndpoint, at: datetime) -> None:
        """The lease's agent is proven; the task may begin."""
        self._happen(self.GuestAttested, at, endpoint=endpoint.model_dump(mode="json"))

    def adopt(self, lease_id: str, term: int, at: datetime) -> None:
        """The lease is driven under that term. A term that was seen changes nothing. Raises NotPossible."""
        self._refuse_unless_current(lease_id)
        if self.current is None or term <= self.current.term:
            return
        if term > 1 + ADOPTIONS_MAX:
            raise NotPossible(f"{lease_id} was adopted more than {ADOPTIONS_MAX} times")
        self._happen(self.LeaseAdopted, at, lease_id=lease_id, term=term)

    def start_draining(self, lease_id: str, reason: str, at: datetime) -> None:
        """Watching is over. Raises NotPossible when it is not the current lease."""
        self._refuse_unless_current(lease_id)
        self._happen(self.DrainingStarted, at, lease_id=lease_id, reason=reason)

    def release(self, lease_id: str, at: datetime) -> None:
        """The lease is over by its owner's word. Raises NotPossible when it is not the current lease."""
        self._refuse_unless_current(lease_id)
        self._happen(self.Released, at, task_id=self.task_id, lease_id=lease_id)

    def expire_lease(
        self, lease_id: str, cause: ExpiryCause, reason: str, at: datetime, *, is_hosts_fault: bool = False
    ) -> None:
        """The lease is over without its owner; not prepared for the third time in a row, the machine is quarantined.

        What is the host's fault, as a route that it cannot open, says nothing of the machine and is not counted.
        Raises NotPossible when it is not the current lease.
        """
        self._refuse_unless_current(lease_id)
        of = {"task_id": self.task_id, "lease_id": lease_id}
        self._happen(self.LeaseExpired, at, **of, cause=cause, reason=reason, is_hosts_fault=is_hosts_fault)
        if cause == "not_prepared" and not is_hosts_fault and self.unprepared >= FAILURES_MAX:
            self.quarantine(f"could not be prepared for {self.unprepared} leases in a row: {reason}", at)

    def breach_isolation(self, reason: str, at: datetime) -> None:
        """The guest of this lease, or of the last, got out: the lease is over, the machine out of the pool."""
        task_id = self.task_id or self.last_task_id
        self._happen(self.IsolationBreached, at, task_id=task_id, lease_id=self.lease_id, reason=reason)

    def drift(self, kind: str, reason: str, at: datetime) -> None:
        """Somebody changed what stands ready: it is cleaned; the third time of one kind it is quarantined."""
        if self.state == "ready" and self.drifts.get(kind, 0) + 1 >= DRIFTS_MAX:
            self.quarantine(f"the same divergence {DRIFTS_MAX} times: {reason}", at, cause="divergence")
        else:
            self._happen(self.DriftSeen, at, reason=reason, kind=kind)

    def expire_evidence(self, reason: str, at: datetime) -> None:
        """The machine stood ready for too long: it is cleaned and verified again."""
        self._happen(self.EvidenceExpired, at, reason=reason)

    def complete_cleaning(self, at: datetime) -> None:
        """Nothing of the past is left; verify, or rebuild where that is due."""
        if not self.needs_rebuild or self.state != "cleaning":
            self._happen(self.Cleaned, at)
            return
        self._fulfil_wish(at)
        self.start_provisioning("rebuild", at)

    def fail_cleaning(self, reason: str, at: datetime) -> None:
        """Cleaning failed: the third time quarantine."""
        if self.state == "cleaning" and self.cleaning_failures + 1 >= FAILURES_MAX:
            self.quarantine(f"could not be cleaned: {reason}", at)
        else:
            self._happen(self.CleaningFailed, at, reason=reason)

    def quarantine(self, reason: str, at: datetime, cause: QuarantineCause = "failures", by: str = "") -> None:
        """Out of the pool; a lease ends first. An operator's word holds one that would be built again by itself.

        Raises NotPossible when it waits for an operator already.
        """
        if self.state == "quarantined" and not (by and self.quarantine_cause in SELF_CURED):
            raise NotPossible(f"machine {self.machine_id} is quarantined already ({self.quarantine_cause})")
        if self.state in LEASED:
            self.expire_lease(self.lease_id or "", "withdrawn", reason, at)
        self._happen(self.Quarantined, at, reason=reason, task_id=self.last_task_id, cause=cause, by=by)

    def request_drain(self, by: str, reason: str, at: datetime) -> None:
        """The machine is the operator's, now or as soon as it is clean and nobody's. Repeating it changes nothing."""
        if self.drain is not None or self.state == "maintenance":
            return
        kind = self.MaintenanceStarted if self.state in ("registered", "ready") else self.DrainRequested
        self._happen(kind, at, by=by, reason=reason)

    def return_to_pool(self, by: str, reason: str, at: datetime) -> None:
        """The machine is nobody's again, to be cleaned and verified; one that was only to be drained stays."""
        is_asked_for = self.drain is not None and self.can("DrainCancelled")
        kind = self.DrainCancelled if is_asked_for else self.Returned
        self._happen(kind, at, by=by, reason=reason)

    def repair_epoch(self, fenced: int, at: datetime) -> None:
        """The epoch is above the one that the host acted for; who owned the machine is not known, so it is cleaned.

        An epoch that is not behind changes nothing.
        """
        if fenced > self.epoch:
            self._repair(fenced + 1, f"the host had acted for epoch {fenced}, the record knew {self.epoch}", at)

    def repair_claim(self, at: datetime) -> None:
        """The epoch is the next one: of this one the host obeys a claim that nobody knows any more. Cleaned likewise.

        Nobody works for a retired machine.
        """
        if self.can("EpochRepaired"):
            reason = f"the host had acted under a later claim of epoch {self.epoch} than the store knew"
            self._repair(self.epoch + 1, reason, at)

    def retire(self, by: str, reason: str, at: datetime) -> None:
        """Gone for good. Raises NotPossible unless it is out of the pool or was never built."""
        self._happen(self.Retired, at, reason=reason, by=by)

    def can(self, event: str) -> bool:
        """Whether the event can happen now."""
        return successor(self.state, event) is not None

    def _fulfil_wish(self, at: datetime) -> None:
        if self.wish is not None:
            spec = self.wish.spec.model_dump(mode="json")
            self._happen(
                self.SpecChanged, at, spec=spec, image_identity=self.wish.image_identity, reason=self.wish.reason
            )

    def _repair(self, epoch: int, reason: str, at: datetime) -> None:
        of = {"task_id": self.task_id, "lease_id": self.lease_id}
        self._happen(self.EpochRepaired, at, epoch=epoch, reason=reason, **of)

    def _refuse_unless_current(self, lease_id: str) -> None:
        if lease_id != self.lease_id:
            raise NotPossible(f"{lease_id} is not the current lease of {self.machine_id}")

    def _happen(self, event: Any, at: datetime, **details: Any) -> None:
        if not self.can(event.__name__):
            raise NotPossible(f"machine {self.machine_id} is {self.state}: {event.__name__} cannot happen")
        self.trigger_event(event, timestamp=at, **details)
