"""A lease, from its grant to its end."""

from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar

from contracts.machines import ExpiryCause, GuestEndpoint
from contracts.submission import Route
from services.machines.domain.events.base import Event
from services.machines.domain.record import Lease, Record


class Leased(Event):
    """A task owns the machine."""

    TOPIC: ClassVar[str] = "machine:leased"
    class_version: ClassVar[int] = 3
    task_id: str
    lease_id: str
    operation_id: str
    hard_deadline_at: datetime
    route: Route
    owner: str | None

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

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        """Version 2 did not say whose the task is."""
        state["owner"] = None


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
        """Keep where it is. The machine can be prepared."""
        record.unprepared = 0
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
    class_version: ClassVar[int] = 2
    task_id: str
    lease_id: str
    cause: ExpiryCause
    reason: str
    is_hosts_fault: bool

    def keep(self, record: Record) -> None:
        """The lease is over; count those in a row that the machine could not be prepared for."""
        record.unprepared += self.cause == "not_prepared" and not self.is_hosts_fault
        record.end_lease(self.cause, self.reason, self.originator_version)

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 took every failure for the machine's."""
        state["is_hosts_fault"] = False


class IsolationBreached(Event):
    """The guest got through its walls; the machine is out of the pool until an operator decides.

    Seen after its lease had ended, the event ends none: `lease_id` is None then.
    """

    TOPIC: ClassVar[str] = "machine:isolation-breached"
    task_id: str | None
    lease_id: str | None
    reason: str

    def keep(self, record: Record) -> None:
        """The lease is over, and no machine that broke out builds itself again."""
        record.end_lease("isolation_breached", self.reason, self.originator_version)
        record.last_task_id = None
        record.quarantine_cause = "isolation_breached"
        record.quarantine_reason = self.reason
        record.quarantined_version = self.originator_version
