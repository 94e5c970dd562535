"""The lifecycle of a machine as a table. What is not drawn cannot happen; the diagram in the docs is made from it."""

from types import MappingProxyType
from typing import Literal

State = Literal[
    "registered",
    "provisioning",
    "verifying",
    "ready",
    "preparing",
    "active",
    "draining",
    "cleaning",
    "quarantined",
    "maintenance",
    "retired",
]

KNOWN: MappingProxyType[State, str] = MappingProxyType(
    {
        "registered": "defined, never trusted",
        "provisioning": "image, disk and warm snapshot are being built",
        "verifying": "evidence of clean is being taken on a fresh incarnation, its agent enrolled for the next lease",
        "ready": "verified clean, warm, standing still, nobody's; its agent serves the next lease only",
        "preparing": "leased; being resumed, its agent already serves this lease only",
        "active": "the sample may have touched it",
        "draining": "watching is over; evidence is being collected, bounded in bytes and time",
        "cleaning": "nobody's; its incarnation is being destroyed",
        "quarantined": "must not run; evidence kept; rebuilt by itself twice at most, else an operator decides",
        "maintenance": "an operator's; nothing of ours runs, and nothing is judged",
        "retired": "gone",
    }
)

LEASED: tuple[State, ...] = ("preparing", "active", "draining")
"""States in which a task owns the machine."""

IN_USE: tuple[State, ...] = ("provisioning", "verifying", *LEASED, "cleaning")
"""States in which somebody works with the machine: what an operator or a new specification wants has to wait."""

TRANSITIONS: MappingProxyType[tuple[State, str], State] = MappingProxyType(
    {
        ("registered", "ProvisioningStarted"): "provisioning",
        ("provisioning", "Provisioned"): "verifying",
        ("provisioning", "ProvisioningFailed"): "cleaning",
        ("verifying", "CleanVerified"): "ready",
        ("verifying", "VerificationFailed"): "cleaning",
        ("ready", "Leased"): "preparing",
        ("ready", "DriftSeen"): "cleaning",
        ("ready", "EvidenceExpired"): "cleaning",
        ("preparing", "GuestAttested"): "active",
        ("active", "DrainingStarted"): "draining",
        ("cleaning", "Cleaned"): "verifying",
        ("cleaning", "CleaningFailed"): "cleaning",
        ("cleaning", "ProvisioningStarted"): "provisioning",
        ("quarantined", "ProvisioningStarted"): "provisioning",
        ("active", "LeaseAdopted"): "active",
        ("draining", "LeaseAdopted"): "draining",
        **{(state, "Released"): "cleaning" for state in LEASED},
        **{(state, "LeaseExpired"): "cleaning" for state in LEASED},
        **{
            (state, "IsolationBreached"): "quarantined"
            for state in (*LEASED, "cleaning", "verifying", "provisioning", "ready", "quarantined")
        },
        ("registered", "SpecChanged"): "registered",
        ("ready", "SpecChanged"): "cleaning",
        ("cleaning", "SpecChanged"): "cleaning",
        ("quarantined", "SpecChanged"): "cleaning",
        **{(state, "SpecRequested"): state for state in (*IN_USE, "quarantined", "maintenance")},
        **{(state, "DrainRequested"): state for state in IN_USE},
        **{(state, "DrainCancelled"): state for state in IN_USE},
        ("registered", "MaintenanceStarted"): "maintenance",
        ("ready", "MaintenanceStarted"): "maintenance",
        ("maintenance", "Returned"): "cleaning",
        ("quarantined", "Returned"): "cleaning",
        **{
            (state, "Quarantined"): "quarantined"
            for state in ("registered", "provisioning", "verifying", "ready", "cleaning", "maintenance", "quarantined")
        },
        ("registered", "Retired"): "retired",
        ("quarantined", "Retired"): "retired",
        ("maintenance", "Retired"): "retired",
        **{(state, "EpochRepaired"): "cleaning" for state in ("registered", "ready", *IN_USE)},
        ("quarantined", "EpochRepaired"): "quarantined",
        ("maintenance", "EpochRepaired"): "maintenance",
    }
)

NEW_EPOCH: frozenset[str] = frozenset(
    {
        "ProvisioningStarted",
        "ProvisioningFailed",
        "VerificationFailed",
        "Leased",
        "DriftSeen",
        "EvidenceExpired",
        "LeaseExpired",
        "Released",
        "IsolationBreached",
        "Quarantined",
        "SpecChanged",
        "MaintenanceStarted",
        "Returned",
        "EpochRepaired",
        "Retired",
    }
)
"""Events that change the owner: each is a new epoch, which fences whoever held the machine before."""


def successor(state: State, event: str) -> State | None:
    """The state that the event leads to, or None when it cannot happen."""
    return TRANSITIONS.get((state, event))
