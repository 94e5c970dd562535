"""The lifecycle of a machine as a table. What is not drawn cannot happen; the diagram in the docs is made from it."""

from types import MappingProxyType
from typing import Literal

State = Literal[
    "registered", "provisioning", "verifying", "ready", "preparing", "active", "cleaning", "quarantined", "retired"
]

KNOWN: MappingProxyType[State, str] = MappingProxyType(
    {
        "registered": "defined, never trusted",
        "provisioning": "image, disk and warm snapshot are being built",
        "verifying": "evidence of clean is being taken on a fresh incarnation, its agent enrolled for the next lease",
        "ready": "verified clean, warm, standing still, nobody's; its agent serves the next lease only",
        "preparing": "leased; being resumed, its agent already serves this lease only",
        "active": "the sample may have touched it",
        "cleaning": "nobody's; its incarnation is being destroyed",
        "quarantined": "must not run; evidence kept; an operator decides",
        "retired": "gone",
    }
)

TRANSITIONS: MappingProxyType[tuple[State, str], State] = MappingProxyType(
    {
        ("registered", "ProvisioningStarted"): "provisioning",
        ("provisioning", "Provisioned"): "verifying",
        ("provisioning", "ProvisioningFailed"): "cleaning",
        ("provisioning", "Quarantined"): "quarantined",
        ("verifying", "CleanVerified"): "ready",
        ("verifying", "VerificationFailed"): "cleaning",
        ("verifying", "Quarantined"): "quarantined",
        ("ready", "Leased"): "preparing",
        ("ready", "DriftSeen"): "cleaning",
        ("preparing", "GuestAttested"): "active",
        ("preparing", "LeaseExpired"): "cleaning",
        ("preparing", "Released"): "cleaning",
        ("active", "Released"): "cleaning",
        ("active", "LeaseExpired"): "cleaning",
        ("cleaning", "Cleaned"): "verifying",
        ("cleaning", "ProvisioningStarted"): "provisioning",
        ("cleaning", "CleaningFailed"): "cleaning",
        ("cleaning", "Quarantined"): "quarantined",
        ("quarantined", "ProvisioningStarted"): "provisioning",
        ("ready", "SpecChanged"): "cleaning",
        ("quarantined", "SpecChanged"): "cleaning",
        ("registered", "Retired"): "retired",
        ("quarantined", "Retired"): "retired",
    }
)

NEW_EPOCH: frozenset[str] = frozenset(
    {
        "ProvisioningStarted",
        "ProvisioningFailed",
        "VerificationFailed",
        "Leased",
        "DriftSeen",
        "LeaseExpired",
        "Released",
        "Quarantined",
        "SpecChanged",
        "Retired",
    }
)
"""Events that change the owner: each is a new epoch, which fences whoever held the machine before."""


def successor(state: State, event: str) -> State | None:
    """The state that the event leads to, or None when it cannot happen."""
    return TRANSITIONS.get((state, event))
