"""What can happen to a machine, as it is stored. Each event moves the state along the table and keeps its details."""

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from contracts.machines import Acceleration, ExpiryCause, GuestEndpoint
from contracts.submission import Route
from services.machines.domain.record import Lease, QuarantineCause, Record, Wish, Word
from services.machines.domain.spec import MachineSpec


def evidence_digest(evidence: dict[str, str]) -> str:
    """The sha256 of the evidence in canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(evidence, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Event(Aggregate.Event):
    """Something happened to the machine."""

    TOPIC: ClassVar[str] = "machine:event"

    def apply(self, aggregate: Any) -> None:
        """The state moves along the table; then the event's own details are kept."""
        aggregate.move(type(self).__name__, self.timestamp)
        self.keep(aggregate)

    def keep(self, record: Record) -> None:
        """What the event adds to the machine's record."""


class Registered(Event, Aggregate.Created):
    """The machine is known."""

    TOPIC: ClassVar[str] = "machine:registered"
    spec: dict[str, Any]

    def apply(self, aggregate: Any) -> None:
        """Nothing moves: this is the first state."""
        aggregate.since = self.timestamp


class SpecRequested(Event):
    """The machine is to become something else, once it is clean and nobody's."""

    TOPIC: ClassVar[str] = "machine:spec-requested"
    spec: dict[str, Any]
    image_identity: str
    reason: str

    def keep(self, record: Record) -> None:
        """Remember the wish; one for what the machine already is takes an earlier wish back."""
        spec = MachineSpec.model_validate(self.spec)
        is_so_already = spec == record.spec and self.image_identity == record.image_identity
        record.wish = None if is_so_already else Wish(spec, self.image_identity, self.reason)


class SpecChanged(Event):
    """What the machine is to be has changed; it is rebuilt."""

    TOPIC: ClassVar[str] = "machine:spec-changed"
    class_version: ClassVar[int] = 2
    spec: dict[str, Any]
    image_identity: str
    reason: str

    def keep(self, record: Record) -> None:
        """Keep the new specification."""
        record.spec = MachineSpec.model_validate(self.spec)
        record.image_identity = self.image_identity
        record.needs_rebuild = True
        record.wish = None
        record.leave_quarantine()
        record.trust_anew()

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not say of which image."""
        state["image_identity"] = ""


class ProvisioningStarted(Event):
    """The image, disk and snapshot are being built, by itself or by an operator's word (`by`)."""

    TOPIC: ClassVar[str] = "machine:provisioning-started"
    class_version: ClassVar[int] = 3
    reason: str
    image_identity: str
    by: str

    def keep(self, record: Record) -> None:
        """Count the build, and keep of which image: that one failing is no reason to try it again for ever."""
        if self.by:
            record.trust_anew()
        elif record.quarantine_cause is not None:
            record.self_cures += 1
        record.leave_quarantine()
        record.image_identity = self.image_identity
        record.rebuilds += 1
        record.needs_rebuild = True  # until it is built
        record.failures = record.cleaning_failures = 0

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not say of which image."""
        state["image_identity"] = ""

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        """Version 2 did not say by whom."""
        state["by"] = ""


class Provisioned(Event):
    """The warm snapshot stands, holding an enrolment identity of the machine's authority."""

    TOPIC: ClassVar[str] = "machine:provisioned"
    acceleration: Acceleration
    image_identity: str
    evidence: dict[str, str]

    def keep(self, record: Record) -> None:
        """Keep what was built."""
        record.needs_rebuild = False
        record.acceleration = self.acceleration
        record.image_identity = self.image_identity
        if record.wish is not None and (record.wish.spec, record.wish.image_identity) == (
            record.spec,
            self.image_identity,
        ):
            record.wish = None


class ProvisioningFailed(Event):
    """The build did not succeed."""

    TOPIC: ClassVar[str] = "machine:provisioning-failed"
    reason: str


class CleanVerified(Event):
    """Evidence says that the machine is clean; the only way to ready."""

    TOPIC: ClassVar[str] = "machine:clean-verified"
    class_version: ClassVar[int] = 3
    evidence: dict[str, str]
    evidence_sha256: str
    task_id: str | None
    endpoint: dict[str, Any] | None

    def keep(self, record: Record) -> None:
        """A verified machine has an agent that serves its next lease; one that served before earns new trust."""
        if record.last_task_id is not None:
            record.trust_anew()
        record.failures = record.rebuilds = 0
        record.last_task_id = None
        record.next_endpoint = GuestEndpoint.model_validate(self.endpoint) if self.endpoint else None
        record.verified_version = self.originator_version
        record.verified_at = self.timestamp

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 left the enrolment to the lease."""
        state["endpoint"] = None

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        """Version 2 did not digest its evidence."""
        state["evidence_sha256"] = evidence_digest(state["evidence"])


class VerificationFailed(Event):
    """The evidence could not be had."""

    TOPIC: ClassVar[str] = "machine:verification-failed"
    reason: str

    def keep(self, record: Record) -> None:
        """Count; too many mean that the snapshot itself is suspect."""
        record.failures += 1


class Leased(Event):
    """A task owns the machine."""

    TOPIC: ClassVar[str] = "machine:leased"
    class_version: ClassVar[int] = 2
    task_id: str
    lease_id: str
    operation_id: str
    hard_deadline_at: datetime
    route: Route

    def keep(self, record: Record) -> None:
        """Keep the owner."""
        record.endpoint = None
        record.current = Lease(
            operation_id=self.operation_id,
            task_id=self.task_id,
            lease_id=self.lease_id,
            epoch=record.epoch,
            route=self.route,
            hard_deadline_at=self.hard_deadline_at,
        )

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 knew no route but none."""
        state["route"] = "none"


class LeaseAdopted(Event):
    """Another process drives the lease; the guest runs on."""

    TOPIC: ClassVar[str] = "machine:lease-adopted"
    lease_id: str
    term: int

    def keep(self, record: Record) -> None:
        """Keep who drives it."""
        if record.current is not None:
            record.current = replace(record.current, term=self.term)


class GuestAttested(Event):
    """The agent of this lease was proven."""

    TOPIC: ClassVar[str] = "machine:guest-attested"
    endpoint: dict[str, Any]

    def keep(self, record: Record) -> None:
        """Keep where it is."""
        record.endpoint = GuestEndpoint.model_validate(self.endpoint)
        if record.current is not None:
            record.current = replace(record.current, attested_version=self.originator_version)


class DrainingStarted(Event):
    """Watching is over; the driver collects what there is."""

    TOPIC: ClassVar[str] = "machine:draining-started"
    lease_id: str
    reason: str


class Released(Event):
    """The owner gave the machine back."""

    TOPIC: ClassVar[str] = "machine:released"
    task_id: str
    lease_id: str

    def keep(self, record: Record) -> None:
        """The lease is over."""
        record.end_lease("released", "", self.originator_version)


class LeaseExpired(Event):
    """The lease ended without its owner: deadline, lost guest, lost driver, failed preparation, an operator's word."""

    TOPIC: ClassVar[str] = "machine:lease-expired"
    task_id: str
    lease_id: str
    cause: ExpiryCause
    reason: str

    def keep(self, record: Record) -> None:
        """The lease is over."""
        record.end_lease(self.cause, self.reason, self.originator_version)


class IsolationBreached(Event):
    """The guest got through its walls; the machine is out of the pool until an operator decides."""

    TOPIC: ClassVar[str] = "machine:isolation-breached"
    task_id: str
    lease_id: str
    reason: str

    def keep(self, record: Record) -> None:
        """The lease is over, and no machine that broke out builds itself again."""
        record.end_lease("isolation_breached", self.reason, self.originator_version)
        record.last_task_id = None
        record.quarantine_cause = "isolation_breached"
        record.quarantine_reason = self.reason
        record.quarantined_version = self.originator_version


class DriftSeen(Event):
    """What runs is not what the record says."""

    TOPIC: ClassVar[str] = "machine:drift-seen"
    class_version: ClassVar[int] = 2
    reason: str
    kind: str

    def keep(self, record: Record) -> None:
        """Count each kind: one that comes back is not cleaned for ever."""
        record.drifts = {**record.drifts, self.kind: record.drifts.get(self.kind, 0) + 1}

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not tell kinds apart."""
        state["kind"] = ""


class EvidenceExpired(Event):
    """The evidence of clean is too old to lease on."""

    TOPIC: ClassVar[str] = "machine:evidence-expired"
    reason: str


class Cleaned(Event):
    """No process, overlay or socket of an earlier epoch is left."""

    TOPIC: ClassVar[str] = "machine:cleaned"

    def keep(self, record: Record) -> None:
        """Cleaning works again."""
        record.cleaning_failures = 0


class CleaningFailed(Event):
    """One attempt at cleaning failed."""

    TOPIC: ClassVar[str] = "machine:cleaning-failed"
    reason: str

    def keep(self, record: Record) -> None:
        """Count."""
        record.cleaning_failures += 1


class Quarantined(Event):
    """Out of the pool."""

    TOPIC: ClassVar[str] = "machine:quarantined"
    class_version: ClassVar[int] = 2
    reason: str
    task_id: str | None
    cause: QuarantineCause
    by: str

    def keep(self, record: Record) -> None:
        """Keep why; the task that used the machine hears of it now."""
        record.last_task_id = None
        record.quarantine_cause = self.cause
        record.quarantine_reason = self.reason
        record.quarantined_version = self.originator_version

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 knew only machines that had failed too often."""
        state["cause"], state["by"] = "failures", ""


class DrainRequested(Event):
    """An operator wants the machine, as soon as it is clean and nobody's."""

    TOPIC: ClassVar[str] = "machine:drain-requested"
    by: str
    reason: str

    def keep(self, record: Record) -> None:
        """Remember whose word it is."""
        record.drain = Word(self.by, self.reason)


class DrainCancelled(Event):
    """The operator does not want the machine any more."""

    TOPIC: ClassVar[str] = "machine:drain-cancelled"
    by: str
    reason: str

    def keep(self, record: Record) -> None:
        """It stays in the pool."""
        record.drain = None


class MaintenanceStarted(Event):
    """The machine is the operator's."""

    TOPIC: ClassVar[str] = "machine:maintenance-started"
    by: str
    reason: str

    def keep(self, record: Record) -> None:
        """The request is fulfilled."""
        record.drain = None


class Returned(Event):
    """An operator gave the machine back; it is cleaned and verified before anybody gets it."""

    TOPIC: ClassVar[str] = "machine:returned"
    by: str
    reason: str

    def keep(self, record: Record) -> None:
        """An operator's word is a new beginning."""
        record.drain = None
        record.leave_quarantine()
        record.trust_anew()


class EpochRepaired(Event):
    """The host had acted for a later epoch than the record knew: the record was restored from a backup."""

    TOPIC: ClassVar[str] = "machine:epoch-repaired"
    epoch: int
    reason: str
    task_id: str | None
    lease_id: str | None

    def keep(self, record: Record) -> None:
        """The epoch is above everything that the host ever acted for; who owned the machine is not known any more."""
        record.epoch = self.epoch
        record.end_lease("lease_lost", self.reason, self.originator_version)


class Retired(Event):
    """Gone."""

    TOPIC: ClassVar[str] = "machine:retired"
    class_version: ClassVar[int] = 2
    reason: str
    by: str

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 named the operator in the reason."""
        state["by"] = ""
