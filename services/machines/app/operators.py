"""Use cases of an operator: each is a word about one machine, with who said it and why. All raise NotPossible."""

from collections.abc import Callable

from services.chassis.unit import Unit
from services.machines.app.recording import record
from services.machines.domain.machine import Machine

Order = Callable[[Unit, Machine, str, str], None]
"""(unit, machine, by, reason)"""


def drain(unit: Unit, machine: Machine, by: str, reason: str) -> None:
    """The machine goes to maintenance, now or as soon as it is clean and nobody's."""
    machine.request_drain(by, reason, unit.at)
    record(unit, machine)


def give_back(unit: Unit, machine: Machine, by: str, reason: str) -> None:
    """The machine is cleaned, verified and leased again; a request to drain it is taken back."""
    machine.return_to_pool(by, reason, unit.at)
    record(unit, machine)


def quarantine(unit: Unit, machine: Machine, by: str, reason: str) -> None:
    """The machine stops and stays as it is, its lease ended; one that would be built again by itself is held."""
    machine.quarantine(reason, unit.at, "operator", by)
    record(unit, machine)


def rebuild(unit: Unit, machine: Machine, by: str, reason: str) -> None:
    """A quarantined machine is built again from nothing."""
    machine.rebuild(by, reason, unit.at)
    record(unit, machine)


def retire(unit: Unit, machine: Machine, by: str, reason: str) -> None:
    """The machine is gone for good; nothing else ever retires one."""
    machine.retire(by, reason, unit.at)
    record(unit, machine)
