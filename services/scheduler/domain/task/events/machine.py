"""A task and its machine: chosen, granted, given back, clean or out of the pool."""

from typing import Any, ClassVar

from contracts.scheduler import GuestAssignment
from services.scheduler.domain.task.events.base import GUEST_PHASES, Event
from services.scheduler.domain.task.record import Record, Returned


class Matched(Event):
    """A machine was chosen."""

    TOPIC: ClassVar[str] = "task:matched"
    machine_id: str
    host: str
    operation_id: str

    def keep(self, task: Record) -> None:
        """Keep which."""
        task.machine_id = self.machine_id
        task.machine_host = self.host
        task.operation_id = self.operation_id
        task.asked_for_at = self.timestamp
        task.matches += 1
        task.why = f"machine {self.machine_id} is being prepared"
        task.leave(self.timestamp, "queue")
        task.enter("boot", self.timestamp)


class MatchRefused(Event):
    """The chosen machine was not to be had."""

    TOPIC: ClassVar[str] = "task:match-refused"
    reason: str

    def keep(self, task: Record) -> None:
        """Back to waiting."""
        task.why = f"waiting for another machine: {self.reason}"
        task.machine_id = None
        task.leave(self.timestamp, "boot")
        task.enter("queue", self.timestamp)


class MachineGranted(Event):
    """The machine is the task's."""

    TOPIC: ClassVar[str] = "task:machine-granted"
    guest: dict[str, Any]

    def keep(self, task: Record) -> None:
        """Keep the lease; a new attempt begins."""
        task.guest = GuestAssignment.model_validate(self.guest)
        task.attempts += 1
        task.ran_on = task.guest
        task.machine = "leased"
        task.observed_from = task.granted_at = self.timestamp
        task.why = f"running on machine {task.guest.lease.machine_id}"


class MachineReturned(Event):
    """The task is done with the machine, or lost it."""

    TOPIC: ClassVar[str] = "task:machine-returned"
    machine_id: str
    host: str
    lease_id: str
    epoch: int

    def keep(self, task: Record) -> None:
        """The machine is not ours, and not clean yet; no lease up to that epoch counts any more.

        The guest goes with it, unless it is on another lease.
        """
        has_other = task.guest is not None and task.guest.lease.lease_id != self.lease_id
        if not has_other:
            task.guest = None
            task.leave(self.timestamp, *GUEST_PHASES)
        task.over_until[self.machine_id] = max(self.epoch, task.over_until.get(self.machine_id, 0))
        left_at, condition = task.left.get(self.machine_id, (-1, ""))
        if left_at < self.epoch:
            task.machine = "leased" if has_other else "reverting"
            task.reverting.add(self.machine_id)
            task.returned[self.machine_id] = Returned(self.host, self.lease_id, self.epoch, self.timestamp)
            task.enter("cleanup", self.timestamp)
        elif not task.reverting and not has_other:
            task.machine = "quarantined" if condition == "quarantined" else "clean"


class MachineLeft(Event):
    """The machine is verified clean, or out of the pool."""

    TOPIC: ClassVar[str] = "task:machine-left"
    class_version: ClassVar[int] = 2
    machine_id: str
    condition: str
    epoch: int

    def keep(self, task: Record) -> None:
        """Keep which, and since which epoch: word of an earlier lease on it may still be under way."""
        task.left[self.machine_id] = (self.epoch, self.condition)
        task.reverting.discard(self.machine_id)
        task.returned.pop(self.machine_id, None)
        if not task.reverting:
            task.leave(self.timestamp, "cleanup")
        if not task.reverting and task.guest is None:
            task.machine = "quarantined" if self.condition == "quarantined" else "clean"

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not say at which epoch."""
        state["epoch"] = 0
