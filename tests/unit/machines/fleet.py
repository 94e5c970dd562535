"""Machines in each state, for tests of what follows."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from contracts.machines import GuestEndpoint
from services.chassis.unit import Unit
from services.machines.announcements import announce
from services.machines.domain.lifecycle import State
from services.machines.domain.machine import Machine
from services.machines.domain.spec import MachineSpec

TASK = "tsk_" + "1" * 32
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPEC = MachineSpec(machine_id="linux-1", host="local", profile="linux", platform="linux", image="linux")
ENDPOINT = GuestEndpoint(scheme="tcp", host="127.0.0.1", port=7, server_identity="x", ca_pem="pem")


def built(spec: MachineSpec = SPEC) -> Machine:
    """A machine whose snapshot stands."""
    machine = Machine.register(spec, NOW)
    machine.start_provisioning("new", NOW)
    machine.complete_provisioning(acceleration="tcg", image_identity="i", evidence={}, at=NOW)
    return machine


def ready(spec: MachineSpec = SPEC) -> Machine:
    """A machine that is verified clean."""
    machine = built(spec)
    machine.verify_clean({"boot_id": "b"}, NOW)
    return machine


def lease(machine: Machine, operation: str = "ope_1") -> Machine:
    """The machine, leased."""
    machine.lease_to(TASK, operation_id=operation, hold_s=60, at=NOW)
    return machine


def unit(at: datetime = NOW) -> Unit:
    """An empty unit."""
    return Unit(service="machines", at=at, uuid=uuid4, announce=announce)


def registered() -> Machine:
    """A machine that is known."""
    return Machine.register(SPEC, NOW)


def provisioning() -> Machine:
    """A machine that is being built."""
    machine = registered()
    machine.start_provisioning("new", NOW, "i")
    return machine


def preparing() -> Machine:
    """A machine that was just leased."""
    return lease(ready())


def active() -> Machine:
    """A machine whose sample may run, leased for a minute."""
    machine = preparing()
    machine.attest(ENDPOINT, NOW)
    return machine


def draining() -> Machine:
    """A machine whose evidence is being collected."""
    machine = active()
    machine.start_draining(machine.lease_id or "", "window", NOW)
    return machine


def cleaning() -> Machine:
    """A machine that a task gave back."""
    machine = active()
    machine.release(machine.lease_id or "", NOW)
    return machine


def quarantined() -> Machine:
    """A machine out of the pool, because it failed."""
    machine = ready()
    machine.drift("gone", "x", NOW)
    machine.quarantine("x", NOW)
    return machine


def maintenance() -> Machine:
    """A machine that is an operator's."""
    machine = ready()
    machine.request_drain("ana", "the host is to be updated", NOW)
    return machine


def retired() -> Machine:
    """A machine that is gone."""
    machine = quarantined()
    machine.retire("ana", "replaced", NOW)
    return machine


IN_STATE: dict[State, Callable[[], Machine]] = {
    "registered": registered,
    "provisioning": provisioning,
    "verifying": built,
    "ready": ready,
    "preparing": preparing,
    "active": active,
    "draining": draining,
    "cleaning": cleaning,
    "quarantined": quarantined,
    "maintenance": maintenance,
    "retired": retired,
}
