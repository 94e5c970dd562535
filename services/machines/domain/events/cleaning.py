"""Whether a machine is clean: evidence, doubt, and what follows when it cannot be had."""

import hashlib
import json
from typing import Any, ClassVar

from contracts.machines import GuestEndpoint
from services.machines.domain.events.base import Event
from services.machines.domain.record import QuarantineCause, Record


def evidence_digest(evidence: dict[str, str]) -> str:
    """The sha256 of the evidence in canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(evidence, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class CleanVerified(Event):
    """Evidence says that the machine is clean; the only way to ready."""

    TOPIC: ClassVar[str] = "machine:clean-verified"
    class_version: ClassVar[int] = 4
    evidence: dict[str, str]
    evidence_sha256: str
    task_id: str | None
    has_served: bool
    endpoint: dict[str, Any] | None

    def keep(self, record: Record) -> None:
        """A verified machine has an agent that serves its next lease; one that served before earns new trust."""
        if self.has_served:
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

    @staticmethod
    def upcast_v3_v4(state: dict[str, Any]) -> None:
        """Version 3 took every lease for one that had a guest."""
        state["has_served"] = state["task_id"] is not None


class VerificationFailed(Event):
    """The evidence could not be had."""

    TOPIC: ClassVar[str] = "machine:verification-failed"
    reason: str

    def keep(self, record: Record) -> None:
        """Count; too many mean that the snapshot itself is suspect."""
        record.failures += 1


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


class EpochRepaired(Event):
    """The host had acted for a later epoch or claim than the record knew: the record was restored from a backup."""

    TOPIC: ClassVar[str] = "machine:epoch-repaired"
    epoch: int
    reason: str
    task_id: str | None
    lease_id: str | None

    def keep(self, record: Record) -> None:
        """The epoch is above everything that the host ever acted for; who owned the machine is not known any more."""
        record.epoch = self.epoch
        record.repaired_version = self.originator_version
        record.end_lease("lease_lost", self.reason, self.originator_version)
