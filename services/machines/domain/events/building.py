"""What a machine is to be, and how it came to be it."""

from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from contracts.machines import Acceleration
from services.machines.domain.events.base import Event
from services.machines.domain.record import Record, Wish
from services.machines.domain.spec import MachineSpec


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
