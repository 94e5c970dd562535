"""Use cases of keeping machines as they are wanted: built, on time, cured, known to others."""

from contracts.machines import MachineRegistered, MachineSummary
from services.chassis.unit import Unit
from services.machines.app.recording import begin_work, record, set_timers
from services.machines.domain.machine import Machine
from services.machines.domain.record import QuarantineCause
from services.machines.domain.spec import MachineSpec
from services.machines.policy import STATE_MAX_S, Finding, is_late


def settle(unit: Unit, machine: Machine | None, spec: MachineSpec, image_identity: str | None) -> None:
    """The operator's specification is the machine's: registered if new, built once its image is, rebuilt if changed.

    A machine that is in use becomes it when it is next clean and nobody's.
    """
    at = unit.at
    if machine is None:
        machine = Machine.register(spec, at)
    if image_identity is not None and machine.state == "registered":
        if machine.spec != spec:
            machine.want(spec, image_identity, at)
        machine.start_provisioning("new", at, image_identity)
    elif image_identity is not None and machine.state != "retired":
        machine.want(spec, image_identity, at)
    record(unit, machine)


def hurry(unit: Unit, machine: Machine, *, is_hosts_fault: bool = False) -> None:
    """A machine that has been in its state for too long is led out of it; one that has not is left alone."""
    if not is_late(machine, unit.at):
        return
    lease_id, limit_s = machine.lease_id or "", STATE_MAX_S[machine.state]
    late = f"{machine.state} took longer than {limit_s:.0f} s"
    if machine.state == "provisioning":
        machine.fail_provisioning(late, unit.at)
    elif machine.state == "verifying":
        machine.fail_verification(late, unit.at)
    elif machine.state == "preparing":
        machine.expire_lease(lease_id, "not_prepared", late, unit.at, is_hosts_fault=is_hosts_fault)
    else:
        machine.expire_lease(lease_id, "collection_deadline", late, unit.at)
    record(unit, machine)


def cure(unit: Unit, machine: Machine) -> None:
    """A quarantined machine is built again by itself, where that is allowed."""
    if machine.cures_itself:
        machine.start_provisioning(f"out of quarantine: {machine.quarantine_reason}", unit.at)
        record(unit, machine)


def carry_out(unit: Unit, machine: Machine, finding: Finding, fence: int) -> None:
    """What was found about the machine is recorded, or the work that it calls for asked for again."""
    match finding.act:
        case "repair":
            machine.repair_epoch(fence, unit.at)
        case "expire":
            machine.expire_lease(machine.lease_id or "", finding.cause, finding.reason, unit.at)
        case "drift":
            machine.drift(finding.kind, finding.reason, unit.at)
        case "renew":
            machine.expire_evidence(finding.reason, unit.at)
        case "hurry":
            set_timers(unit, machine)
        case "cure":
            cure(unit, machine)
        case "work":
            begin_work(unit, machine)
    record(unit, machine)


def quarantine(unit: Unit, machine: Machine, reason: str, cause: QuarantineCause) -> None:
    """Out of the pool, for a reason that we saw. Raises NotPossible."""
    machine.quarantine(reason, unit.at, cause)
    record(unit, machine)


def introduce(unit: Unit, machine: MachineSummary, *, state: str, epoch: int, version: int) -> None:
    """A machine that was known before is said again, so that listeners who lost everything learn of it."""
    of = {"machine_id": machine.machine_id, "epoch": epoch}
    unit.say(MachineRegistered(**of, machine=machine, state=state), sequence=version)
