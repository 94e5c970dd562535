"""Use cases of a lease: granted or refused, drained, given back, lost. One that is not current is never touched."""

from contracts.ids import derived
from contracts.machines import CaptureStored, ExpiryCause, LeaseRef, LeaseRefused
from contracts.scheduler import LeaseMachine, ReleaseMachine
from services.chassis.unit import Unit
from services.machines.app import repeat
from services.machines.app.recording import record
from services.machines.domain.machine import Machine, NotPossible
from services.machines.policy import LEASE_MAX_S
from services.machines.ports import Breach, CaptureTaken


def lease(unit: Unit, machine: Machine | None, command: LeaseMachine, refused: str | None = None) -> None:
    """The machine is the task's, or the refusal says why not.

    An order that was carried out, or refused (`refused` is why), meets its outcome again.
    """
    if refused is not None:
        _refuse(unit, machine, command, refused)
    elif machine is None:
        _refuse(unit, machine, command, f"no machine {command.machine_id} on this host")
    elif (granted := machine.lease_of(command.operation_id)) is not None:
        repeat.outcome(unit, machine, granted)
    elif command.route not in machine.spec.routes:
        _refuse(unit, machine, command, f"machine {command.machine_id} does not offer the route {command.route}")
    elif command.untrusted and not machine.summary().accepts_untrusted:
        _refuse(unit, machine, command, f"machine {command.machine_id} accepts no samples that are marked untrusted")
    else:
        _grant(unit, machine, command)


def _grant(unit: Unit, machine: Machine, command: LeaseMachine) -> None:
    try:
        machine.lease_to(
            command.task_id,
            operation_id=command.operation_id,
            hold_s=min(command.hold_s, LEASE_MAX_S),
            at=unit.at,
            route=command.route,
            owner=command.owner,
        )
    except NotPossible as refusal:
        _refuse(unit, machine, command, str(refusal))
    else:
        record(unit, machine)


def release(unit: Unit, machine: Machine | None, command: ReleaseMachine) -> None:
    """The lease is over. One that is not current has no effect; how it ended is said again."""
    if machine is None:
        return
    if machine.lease_id == command.lease_id:
        machine.release(command.lease_id, unit.at)
        record(unit, machine)
    elif (ended := machine.ended(command.lease_id)) is not None:
        repeat.outcome(unit, machine, ended)


def expire(unit: Unit, machine: Machine, lease_id: str, cause: ExpiryCause, reason: str) -> None:
    """The lease is over without its owner; a lease that is not current has no effect."""
    if machine.lease_id == lease_id:
        machine.expire_lease(lease_id, cause, reason, unit.at)
        record(unit, machine)


def breach(unit: Unit, machine: Machine, seen: Breach) -> None:
    """A guest got through its walls: its lease is over, the machine out of the pool until an operator decides.

    What stood ready, nobody's, has drifted. A breach of an incarnation that was taken down since has no effect.
    """
    if machine.is_broken_through(seen.epoch, seen.lease_id):
        machine.breach_isolation(seen.reason, unit.at)
        record(unit, machine)
    elif machine.state == "ready" and seen.epoch >= machine.epoch:
        machine.drift("network", seen.reason, unit.at)
        record(unit, machine)


def tell_capture(unit: Unit, machine: Machine, taken: CaptureTaken | None) -> None:
    """Whoever had the lease that packets were recorded of is told of the record, once; of a forgotten lease nobody."""
    lease = machine.ended(taken.lease_id) if taken is not None else None
    if taken is None or lease is None:
        return
    told = CaptureStored(
        machine_id=machine.machine_id,
        epoch=lease.epoch,
        task_id=lease.task_id,
        lease_id=lease.lease_id,
        blob=taken.blob,
        packets=taken.packets,
        is_truncated=taken.is_truncated,
    )
    unit.say(told, message_id=derived("msg", lease.lease_id, told.WHAT))


def drain(unit: Unit, machine: Machine, lease: LeaseRef, reason: str) -> None:
    """Watching is over, evidence is being collected. A lease or driver that is not current, or late, has no effect."""
    current = machine.current
    is_current = current is not None and current.lease_id == lease.lease_id and current.term <= lease.term
    if is_current and machine.can("DrainingStarted"):
        machine.start_draining(lease.lease_id, reason, unit.at)
        record(unit, machine)


def adopt(unit: Unit, machine: Machine, lease_id: str, term: int) -> None:
    """The lease is driven under that term; one that was adopted too often is over."""
    if machine.lease_id != lease_id:
        return
    try:
        machine.adopt(lease_id, term, unit.at)
    except NotPossible as refusal:
        machine.expire_lease(lease_id, "lease_lost", str(refusal), unit.at)
    record(unit, machine)


def _refuse(unit: Unit, machine: Machine | None, command: LeaseMachine, reason: str) -> None:
    unit.execute(
        "INSERT INTO refusals (operation_id, machine_id, reason, refused_at) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (operation_id) DO NOTHING",
        command.operation_id,
        command.machine_id,
        reason,
        unit.at,
    )
    unit.say(
        LeaseRefused(
            machine_id=command.machine_id,
            epoch=machine.epoch if machine else 0,
            task_id=command.task_id,
            operation_id=command.operation_id,
            reason=reason,
        ),
        sequence=machine.version if machine else None,
    )
