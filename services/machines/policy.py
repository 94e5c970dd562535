"""Choices as pure functions of a machine's record: which work follows an event, and what an observation means."""

from datetime import datetime, timedelta
from typing import Any

from services.machines.domain.machine import Machine
from services.machines.ports import DomainSeen

EVIDENCE_MAX_AGE_S = 12 * 3600
"""A machine that stood ready for longer is verified again."""
LEASE_MAX_S = 2 * 3600
"""No lease is granted for longer; certificates of a lease outlive it by no more than a ready machine may wait."""

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


def divergence(machine: Machine, domain: DomainSeen | None, now: datetime) -> str | None:
    """Why what the hypervisor shows is not what the record says, or None when it is. Work in progress is not judged."""
    if machine.state == "ready":
        return _unready(machine, domain, now)
    is_running = domain is not None and domain.state != "off"
    if machine.state == "active" and not is_running:
        return "its virtual machine ended"
    if machine.state == "quarantined" and is_running:
        return "it is quarantined and runs"
    return "the lease reached its hard deadline" if is_overdue(machine, now) else None


def _unready(machine: Machine, domain: DomainSeen | None, now: datetime) -> str | None:
    if domain is None:
        return "its domain is gone"
    if domain.state != "paused":
        return f"its domain is {domain.state}, not paused"
    if now - machine.modified_on > timedelta(seconds=EVIDENCE_MAX_AGE_S):
        return "its evidence of clean is too old"
    return None


def is_overdue(machine: Machine, now: datetime) -> bool:
    """Whether the machine's lease is past its hard deadline."""
    return machine.hard_deadline_at is not None and now > machine.hard_deadline_at
