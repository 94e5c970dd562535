"""Choices as pure functions of a machine's record: which work follows an event, and what an observation means."""

from datetime import datetime
from typing import Any

from services.machines.domain.machine import Machine
from services.machines.ports import DomainSeen

FOLLOW_UP: dict[type[Any], str] = {
    Machine.ProvisioningStarted: "provision",
    Machine.ProvisioningFailed: "clean",
    Machine.Provisioned: "verify",
    Machine.Cleaned: "verify",
    Machine.VerificationFailed: "clean",
    Machine.Leased: "prepare",
    Machine.Released: "clean",
    Machine.LeaseExpired: "clean",
    Machine.DriftSeen: "clean",
    Machine.CleaningFailed: "clean",
    Machine.Quarantined: "stop",
}
"""The work that an event calls for. Each kind is carried out in `effects`."""

STATE_OF_WORK: dict[str, str] = {
    "provision": "provisioning",
    "clean": "cleaning",
    "verify": "verifying",
    "prepare": "preparing",
    "stop": "quarantined",
}
"""The state in which each kind of work makes sense; in any other it is out of date and does nothing."""


def follow_up(event: Any) -> str | None:
    """The kind of work that the event calls for, if any."""
    if isinstance(event, Machine.SpecChanged):
        return "clean"
    return FOLLOW_UP.get(type(event))


def divergence(machine: Machine, domain: DomainSeen | None) -> str | None:
    """Why what the hypervisor shows is not what the record says, or None when it is. Work in progress is not judged."""
    if machine.state == "ready":
        if domain is None:
            return "its domain is gone"
        if domain.state != "paused":
            return f"its domain is {domain.state}, not paused"
    if machine.state == "active" and (domain is None or domain.state == "off"):
        return "its virtual machine ended"
    return None


def is_past(deadline: datetime | None, now: datetime) -> bool:
    """Whether the deadline has come."""
    return deadline is not None and now >= deadline
