"""Use cases: an aggregate, a wish, an outcome. Each records what happened and the work that follows from it."""

from contracts.machines import ExpiryCause, LeaseRefused, MachineLeased, MachineRegistered
from contracts.scheduler import LeaseMachine, ReleaseMachine
from services.chassis.unit import Unit
from services.machines.domain.machine import Machine, NotPossible
from services.machines.domain.spec import MachineSpec
from services.machines.policy import LEASE_MAX_S, follow_up

REBUILDABLE_STATES = frozenset({"ready", "quarantined"})


def record(unit: Unit, machine: Machine) -> None:
    """The machine's new events are in the unit, with the work that they call for."""
    kinds = [kind for event in machine.pending_events if (kind := follow_up(event))]
    unit.save(machine)
    for kind in kinds:
        unit.enqueue(
            kind,
            f"{machine.machine_id}:{machine.epoch}:{machine.version}",
            {"machine_id": machine.machine_id, "epoch": machine.epoch, "task_id": machine.task_id},
        )
    if machine.state == "preparing" and machine.hard_deadline_at is not None:
        unit.enqueue(
            "expire",
            f"{machine.machine_id}:{machine.epoch}",
            {"machine_id": machine.machine_id, "epoch": machine.epoch, "lease_id": machine.lease_id},
            due_at=machine.hard_deadline_at,
        )


def settle(unit: Unit, machine: Machine | None, spec: MachineSpec, image_identity: str | None) -> None:
    """The operator's specification is the machine's: registered if new, built once its image is, rebuilt if changed."""
    at = unit.at
    if machine is None:
        machine = Machine.register(spec, at)
    if image_identity is not None:
        if machine.state == "registered":
            machine.start_provisioning("new", at, image_identity)
        elif machine.state in REBUILDABLE_STATES:
            _rebuild_if_changed(machine, spec, image_identity, unit)
    record(unit, machine)


def _rebuild_if_changed(machine: Machine, spec: MachineSpec, image_identity: str, unit: Unit) -> None:
    if machine.spec != spec:
        machine.change_spec(spec, image_identity, "the specification changed", unit.at)
    elif machine.image_identity != image_identity:
        machine.change_spec(spec, image_identity, "the image was rebuilt", unit.at)


def lease(unit: Unit, machine: Machine | None, command: LeaseMachine) -> None:
    """The machine is the task's, or the refusal says why not."""
    if machine is None:
        _refuse(unit, machine, command, f"no machine {command.machine_id} on this host")
        return
    if command.route not in machine.spec.routes:
        _refuse(unit, machine, command, f"machine {command.machine_id} does not offer the route {command.route}")
        return
    try:
        machine.lease_to(
            command.task_id, operation_id=command.operation_id, hold_s=min(command.hold_s, LEASE_MAX_S), at=unit.at
        )
    except NotPossible as refusal:
        _refuse(unit, machine, command, str(refusal))
        return
    if machine.pending_events:
        record(unit, machine)
    else:
        _repeat_grant(unit, machine)


def release(unit: Unit, machine: Machine | None, command: ReleaseMachine) -> None:
    """The lease is over. A lease that is not current has no effect: its machine is another's, or clean, already."""
    if machine is not None and machine.lease_id == command.lease_id:
        machine.release(command.lease_id, unit.at)
        record(unit, machine)


def expire(unit: Unit, machine: Machine, lease_id: str, cause: ExpiryCause, reason: str) -> None:
    """The lease is over without its owner; a lease that is not current has no effect."""
    if machine.lease_id == lease_id:
        machine.expire_lease(lease_id, cause, reason, unit.at)
        record(unit, machine)


def stop(unit: Unit, machine: Machine) -> None:
    """A quarantined machine that runs nevertheless is stopped; asking again while that is being done is one request."""
    payload = {"machine_id": machine.machine_id, "epoch": machine.epoch, "task_id": None}
    unit.enqueue("stop", f"{machine.machine_id}:{machine.epoch}:{machine.version}", payload)


def rebuild(unit: Unit, machine: Machine, reason: str) -> None:
    """A quarantined machine is built again by an operator's word. Raises NotPossible."""
    machine.start_provisioning(reason, unit.at)
    record(unit, machine)


def _repeat_grant(unit: Unit, machine: Machine) -> None:
    """The order was carried out before: its outcome is said again, should the first word have been lost."""
    if machine.lease and machine.task_id and machine.endpoint and machine.hard_deadline_at:
        unit.say(
            MachineLeased(
                machine_id=machine.machine_id,
                epoch=machine.epoch,
                task_id=machine.task_id,
                lease=machine.lease,
                endpoint=machine.endpoint,
                platform=machine.spec.platform,
                acceleration=machine.acceleration,
                hard_deadline_at=machine.hard_deadline_at,
            ),
            sequence=machine.version,
        )


def _refuse(unit: Unit, machine: Machine | None, command: LeaseMachine, reason: str) -> None:
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


def retire(unit: Unit, machine: Machine, reason: str) -> None:
    """The machine is gone for good by an operator's word; nothing else ever retires one. Raises NotPossible."""
    machine.retire(reason, unit.at)
    record(unit, machine)


def introduce(unit: Unit, machine: Machine | None) -> None:
    """A machine that was known before is said again, so that listeners who lost everything learn of it."""
    if machine is None or machine.state == "retired":
        return
    of = {"machine_id": machine.machine_id, "epoch": machine.epoch}
    unit.say(MachineRegistered(**of, machine=machine.summary(), state=machine.state), sequence=machine.version)
