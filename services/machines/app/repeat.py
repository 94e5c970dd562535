"""Says again what was said before, under the id that it had then: only who missed it learns anything."""

from typing import Any

from contracts.envelope import Message
from contracts.ids import derived
from contracts.machines import (
    LeaseExpired,
    MachineLeased,
    MachineQuarantined,
    MachineReleased,
    MachineReverted,
)
from services.chassis.unit import Unit, message_id_of
from services.machines.domain.machine import Machine
from services.machines.domain.record import Lease


def outcome(unit: Unit, machine: Machine, lease: Lease) -> None:
    """What became of the lease: granted, or how it ended and whether the machine is clean of it."""
    if lease == machine.current:
        grant(unit, machine)
    elif lease.ending:
        _ending(unit, machine, lease)
        _departure(unit, machine, lease)


def grant(unit: Unit, machine: Machine) -> None:
    """The machine is the task's, if its agent was proven."""
    details = granted(machine)
    if details is not None and machine.current is not None:
        message = MachineLeased(machine_id=machine.machine_id, epoch=machine.epoch, **details)
        _say(unit, machine, message, machine.current.attested_version)


def granted(machine: Machine) -> dict[str, Any] | None:
    """What is said of a lease whose agent was proven, as it was when it began; None when there is no such lease."""
    lease = machine.current
    if lease is None or machine.lease is None or machine.endpoint is None:
        return None
    return {
        "task_id": lease.task_id,
        "lease": machine.lease.model_copy(update={"term": 1}),
        "endpoint": machine.endpoint,
        "platform": machine.spec.platform,
        "acceleration": machine.acceleration,
        "hard_deadline_at": lease.hard_deadline_at,
        "host": machine.spec.host,
    }


def _ending(unit: Unit, machine: Machine, lease: Lease) -> None:
    of = {
        "machine_id": machine.machine_id,
        "epoch": lease.ended_epoch,
        "task_id": lease.task_id,
        "lease_id": lease.lease_id,
    }
    if lease.ending == "released":
        _say(unit, machine, MachineReleased.model_validate(of), lease.ended_version)
    else:
        expired = LeaseExpired.model_validate({**of, "cause": lease.ending, "reason": lease.reason})
        _say(unit, machine, expired, lease.ended_version)


def _departure(unit: Unit, machine: Machine, lease: Lease) -> None:
    """Clean, or out of the pool; nothing while it is still being cleaned, for that will be said.

    Epoch and sequence are those of the lease's end: this is news of the task, not of whether the machine is to be had
    now, and by now the same task may have it again.
    """
    of = {"machine_id": machine.machine_id, "epoch": lease.ended_epoch, "task_id": lease.task_id}
    said: Message
    if machine.verified_version > lease.ended_version:
        said = MachineReverted(**of, machine=machine.summary(), evidence={})
    elif machine.quarantined_version >= lease.ended_version:
        said = MachineQuarantined(**of, reason=machine.quarantine_reason)
    else:
        return
    message_id = derived("msg", lease.lease_id, said.WHAT)
    unit.say(said, message_id=message_id, sequence=lease.ended_version)


def _say(unit: Unit, machine: Machine, message: Message, version: int) -> None:
    unit.say(message, message_id=message_id_of(machine.id, version, 0), sequence=version)
