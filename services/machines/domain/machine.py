"""The machine aggregate: what its events say is who owns it. Pure: instants and outcomes are handed in."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from eventsourcing.domain import Aggregate

from contracts.ids import derived, uuid_of
from contracts.machines import Acceleration, ExpiryCause, GuestEndpoint, LeaseRef, MachineSummary
from services.machines.domain.lifecycle import NEW_EPOCH, State, successor
from services.machines.domain.spec import MachineSpec

FAILURES_MAX = 3
REBUILDS_MAX = 2


class NotPossible(Exception):
    """The machine's state does not allow this; nothing was changed. The message says why."""


class Machine(Aggregate):
    """One machine. `epoch` grows with every change of owner and never falls."""

    TOPIC: ClassVar[str] = "machine"

    class Event(Aggregate.Event):
        """Something happened to the machine."""

        TOPIC: ClassVar[str] = "machine:event"

        def apply(self, aggregate: "Machine") -> None:
            """The state moves along the table; then the event's own details are kept."""
            aggregate._move(type(self).__name__)  # noqa: SLF001 - the event is part of the aggregate
            self.keep(aggregate)

        def keep(self, aggregate: "Machine") -> None:
            """What the event adds to the machine's record."""

    class Registered(Event, Aggregate.Created):
        """The machine is known."""

        TOPIC: ClassVar[str] = "machine:registered"
        spec: dict[str, Any]

        def apply(self, aggregate: "Machine") -> None:
            """Nothing moves: this is the first state."""

    class SpecChanged(Event):
        """What the machine is to be has changed; it is rebuilt."""

        TOPIC: ClassVar[str] = "machine:spec-changed"
        class_version: ClassVar[int] = 2
        spec: dict[str, Any]
        image_identity: str
        reason: str

        def keep(self, aggregate: "Machine") -> None:
            """Keep the new specification."""
            aggregate.spec = MachineSpec.model_validate(self.spec)
            aggregate.image_identity = self.image_identity
            aggregate.needs_rebuild = True
            aggregate.rebuilds = aggregate.failures = 0

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """Version 1 did not say of which image."""
            state["image_identity"] = ""

    class ProvisioningStarted(Event):
        """The image, disk and snapshot are being built."""

        TOPIC: ClassVar[str] = "machine:provisioning-started"
        class_version: ClassVar[int] = 2
        reason: str
        image_identity: str

        def keep(self, aggregate: "Machine") -> None:
            """Count the build, and keep of which image: that one failing is no reason to try it again for ever."""
            aggregate.image_identity = self.image_identity
            aggregate.rebuilds += 1
            aggregate.needs_rebuild = False
            aggregate.failures = 0

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """Version 1 did not say of which image."""
            state["image_identity"] = ""

    class Provisioned(Event):
        """The warm snapshot stands, holding an enrolment identity of the machine's authority."""

        TOPIC: ClassVar[str] = "machine:provisioned"
        acceleration: Acceleration
        image_identity: str
        evidence: dict[str, str]

        def keep(self, aggregate: "Machine") -> None:
            """Keep what was built."""
            aggregate.acceleration = self.acceleration
            aggregate.image_identity = self.image_identity

    class ProvisioningFailed(Event):
        """The build did not succeed."""

        TOPIC: ClassVar[str] = "machine:provisioning-failed"
        reason: str

        def keep(self, aggregate: "Machine") -> None:
            """Build again after cleaning."""
            aggregate.needs_rebuild = True

    class CleanVerified(Event):
        """Evidence says that the machine is clean; the only way to ready."""

        TOPIC: ClassVar[str] = "machine:clean-verified"
        class_version: ClassVar[int] = 2
        evidence: dict[str, str]
        task_id: str | None
        endpoint: dict[str, Any] | None

        def keep(self, aggregate: "Machine") -> None:
            """A verified machine has a clean slate, and an agent that serves its next lease and no other."""
            aggregate.failures = aggregate.rebuilds = 0
            aggregate.next_endpoint = GuestEndpoint.model_validate(self.endpoint) if self.endpoint else None

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """Version 1 left the enrolment to the lease."""
            state["endpoint"] = None

    class VerificationFailed(Event):
        """The evidence could not be had."""

        TOPIC: ClassVar[str] = "machine:verification-failed"
        reason: str

        def keep(self, aggregate: "Machine") -> None:
            """Count; too many mean that the snapshot itself is suspect."""
            aggregate.failures += 1
            aggregate.needs_rebuild = aggregate.failures >= FAILURES_MAX

    class Leased(Event):
        """A task owns the machine."""

        TOPIC: ClassVar[str] = "machine:leased"
        task_id: str
        lease_id: str
        operation_id: str
        hard_deadline_at: datetime

        def keep(self, aggregate: "Machine") -> None:
            """Keep the owner."""
            aggregate.task_id = self.task_id
            aggregate.lease_id = self.lease_id
            aggregate.operation_id = self.operation_id
            aggregate.hard_deadline_at = self.hard_deadline_at
            aggregate.endpoint = None

    class GuestAttested(Event):
        """The agent of this lease was proven."""

        TOPIC: ClassVar[str] = "machine:guest-attested"
        endpoint: dict[str, Any]

        def keep(self, aggregate: "Machine") -> None:
            """Keep where it is."""
            aggregate.endpoint = GuestEndpoint.model_validate(self.endpoint)

    class Released(Event):
        """The owner gave the machine back."""

        TOPIC: ClassVar[str] = "machine:released"
        task_id: str
        lease_id: str

        def keep(self, aggregate: "Machine") -> None:
            """The lease is over."""
            aggregate.end_lease()

    class LeaseExpired(Event):
        """The lease ended without its owner: deadline, lost guest, failed preparation."""

        TOPIC: ClassVar[str] = "machine:lease-expired"
        task_id: str
        lease_id: str
        cause: ExpiryCause
        reason: str

        def keep(self, aggregate: "Machine") -> None:
            """The lease is over."""
            aggregate.end_lease()

    class DriftSeen(Event):
        """What runs is not what the record says."""

        TOPIC: ClassVar[str] = "machine:drift-seen"
        reason: str

    class Cleaned(Event):
        """No process, overlay or socket of an earlier epoch is left."""

        TOPIC: ClassVar[str] = "machine:cleaned"

    class CleaningFailed(Event):
        """One attempt at cleaning failed."""

        TOPIC: ClassVar[str] = "machine:cleaning-failed"
        reason: str

        def keep(self, aggregate: "Machine") -> None:
            """Count."""
            aggregate.failures += 1

    class Quarantined(Event):
        """Out of the pool."""

        TOPIC: ClassVar[str] = "machine:quarantined"
        reason: str
        task_id: str | None

        def keep(self, aggregate: "Machine") -> None:
            """The lease, if any, is over."""
            aggregate.quarantine_reason = self.reason
            aggregate.end_lease()

    class Retired(Event):
        """Gone."""

        TOPIC: ClassVar[str] = "machine:retired"
        reason: str

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = MachineSpec.model_validate(spec)
        self.state: State = "registered"
        self.epoch = 0
        self.failures = 0
        self.rebuilds = 0
        self.needs_rebuild = False
        self.acceleration: Acceleration = "none"
        self.image_identity = ""
        self.task_id: str | None = None
        self.lease_id: str | None = None
        self.operation_id: str | None = None
        self.hard_deadline_at: datetime | None = None
        self.endpoint: GuestEndpoint | None = None
        self.next_endpoint: GuestEndpoint | None = None
        self.last_task_id: str | None = None
        self.quarantine_reason = ""

    @classmethod
    def register(cls, spec: MachineSpec, at: datetime) -> "Machine":
        """A machine that is known and not trusted."""
        return cls._create(
            cls.Registered, id=cls.stream(spec.machine_id), timestamp=at, spec=spec.model_dump(mode="json")
        )

    @staticmethod
    def stream(machine_id: str) -> UUID:
        """The id of the machine's event stream; also the fixed UUID of its domain."""
        return uuid_of(machine_id)

    @property
    def machine_id(self) -> str:
        """The machine's name."""
        return self.spec.machine_id

    @property
    def next_lease_id(self) -> str:
        """The lease that the next epoch will be, if the machine is leased then."""
        return derived("lea", self.machine_id, self.epoch + 1)

    def summary(self) -> MachineSummary:
        """What other services may know of it."""
        return self.spec.summary(self.acceleration)

    @property
    def lease(self) -> LeaseRef | None:
        """The current lease."""
        if self.lease_id is None:
            return None
        return LeaseRef(lease_id=self.lease_id, machine_id=self.machine_id, epoch=self.epoch, term=1)

    def change_spec(self, spec: MachineSpec, image_identity: str, reason: str, at: datetime) -> None:
        """The machine is to become something else. Raises NotPossible while it is leased or being built."""
        self._happen(
            self.SpecChanged, at, spec=spec.model_dump(mode="json"), image_identity=image_identity, reason=reason
        )

    def start_provisioning(self, reason: str, at: datetime, image_identity: str | None = None) -> None:
        """The build begins, from nothing, of that image (None: the one that it was made of before)."""
        identity = self.image_identity if image_identity is None else image_identity
        self._happen(self.ProvisioningStarted, at, reason=reason, image_identity=identity)

    def complete_provisioning(
        self, *, acceleration: Acceleration, image_identity: str, evidence: dict[str, str], at: datetime
    ) -> None:
        """The build succeeded."""
        self._happen(self.Provisioned, at, acceleration=acceleration, image_identity=image_identity, evidence=evidence)

    def fail_provisioning(self, reason: str, at: datetime) -> None:
        """The build failed: once more after cleaning, or quarantine."""
        if self.rebuilds > REBUILDS_MAX:
            self.quarantine(f"could not be built {self.rebuilds} times: {reason}", at)
        else:
            self._happen(self.ProvisioningFailed, at, reason=reason)

    def verify_clean(self, evidence: dict[str, str], at: datetime, endpoint: GuestEndpoint | None = None) -> None:
        """Clean, with evidence; the agent at the endpoint is enrolled for the next lease."""
        shown = endpoint.model_dump(mode="json") if endpoint else None
        self._happen(self.CleanVerified, at, evidence=evidence, task_id=self.last_task_id, endpoint=shown)

    def fail_verification(self, reason: str, at: datetime) -> None:
        """No evidence: clean again; the third time rebuild; after two rebuilds quarantine."""
        if self.failures + 1 >= FAILURES_MAX and self.rebuilds > REBUILDS_MAX:
            self.quarantine(f"never verified clean: {reason}", at)
        else:
            self._happen(self.VerificationFailed, at, reason=reason)

    def lease_to(self, task_id: str, *, operation_id: str, hold_s: int, at: datetime) -> None:
        """The task owns the machine. Repeating the operation changes nothing. Raises NotPossible."""
        if self.operation_id == operation_id:
            return
        self._happen(
            self.Leased,
            at,
            task_id=task_id,
            lease_id=self.next_lease_id,
            operation_id=operation_id,
            hard_deadline_at=at + timedelta(seconds=hold_s),
        )

    def attest(self, endpoint: GuestEndpoint, at: datetime) -> None:
        """The lease's agent is proven; the task may begin."""
        self._happen(self.GuestAttested, at, endpoint=endpoint.model_dump(mode="json"))

    def release(self, lease_id: str, at: datetime) -> None:
        """The lease is over by its owner's word. Raises NotPossible when it is not the current lease."""
        if lease_id != self.lease_id:
            raise NotPossible(f"{lease_id} is not the current lease of {self.machine_id}")
        self._happen(self.Released, at, task_id=self.task_id, lease_id=lease_id)

    def expire_lease(self, lease_id: str, cause: ExpiryCause, reason: str, at: datetime) -> None:
        """The lease is over without its owner. Raises NotPossible when it is not the current lease."""
        if lease_id != self.lease_id:
            raise NotPossible(f"{lease_id} is not the current lease of {self.machine_id}")
        self._happen(self.LeaseExpired, at, task_id=self.task_id, lease_id=lease_id, cause=cause, reason=reason)

    def drift(self, reason: str, at: datetime) -> None:
        """Somebody changed what stands ready; it is cleaned."""
        self._happen(self.DriftSeen, at, reason=reason)

    def complete_cleaning(self, at: datetime) -> None:
        """Nothing of the past is left; verify, or rebuild where that is due."""
        if self.needs_rebuild:
            self.start_provisioning("rebuild", at)
        else:
            self._happen(self.Cleaned, at)

    def fail_cleaning(self, reason: str, at: datetime) -> None:
        """Cleaning failed: the third time quarantine."""
        if self.failures + 1 >= FAILURES_MAX:
            self.quarantine(f"could not be cleaned: {reason}", at)
        else:
            self._happen(self.CleaningFailed, at, reason=reason)

    def quarantine(self, reason: str, at: datetime) -> None:
        """Out of the pool."""
        self._happen(self.Quarantined, at, reason=reason, task_id=self.last_task_id)

    def retire(self, reason: str, at: datetime) -> None:
        """Gone for good. Raises NotPossible unless it is quarantined or was never built."""
        self._happen(self.Retired, at, reason=reason)

    def end_lease(self) -> None:
        """Nobody owns the machine any more; who did is remembered until it is verified clean."""
        if self.task_id is not None:
            self.last_task_id = self.task_id
        self.task_id = self.lease_id = self.endpoint = self.hard_deadline_at = None

    def _happen(self, event: Any, at: datetime, **details: Any) -> None:
        if successor(self.state, event.__name__) is None:
            raise NotPossible(f"machine {self.machine_id} is {self.state}: {event.__name__} cannot happen")
        self.trigger_event(event, timestamp=at, **details)

    def _move(self, event: str) -> None:
        state = successor(self.state, event)
        if state is None:
            raise NotPossible(f"{event} in {self.state}")
        self.state = state
        if event in NEW_EPOCH:
            self.epoch += 1
