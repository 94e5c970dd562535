"""What can happen to a machine, as it is stored. Each event moves the state along the table and keeps its details."""

from services.machines.domain.events.base import (
    Event,
)
from services.machines.domain.events.building import (
    Provisioned,
    ProvisioningFailed,
    ProvisioningStarted,
    Registered,
    SpecChanged,
    SpecRequested,
)
from services.machines.domain.events.cleaning import (
    Cleaned,
    CleaningFailed,
    CleanVerified,
    DriftSeen,
    EpochRepaired,
    EvidenceExpired,
    Quarantined,
    VerificationFailed,
    evidence_digest,
)
from services.machines.domain.events.leases import (
    DrainingStarted,
    GuestAttested,
    IsolationBreached,
    LeaseAdopted,
    Leased,
    LeaseExpired,
    Released,
)
from services.machines.domain.events.operators import (
    DrainCancelled,
    DrainRequested,
    MaintenanceStarted,
    Retired,
    Returned,
)

__all__ = [
    "CleanVerified",
    "Cleaned",
    "CleaningFailed",
    "DrainCancelled",
    "DrainRequested",
    "DrainingStarted",
    "DriftSeen",
    "EpochRepaired",
    "Event",
    "EvidenceExpired",
    "GuestAttested",
    "IsolationBreached",
    "LeaseAdopted",
    "LeaseExpired",
    "Leased",
    "MaintenanceStarted",
    "Provisioned",
    "ProvisioningFailed",
    "ProvisioningStarted",
    "Quarantined",
    "Registered",
    "Released",
    "Retired",
    "Returned",
    "SpecChanged",
    "SpecRequested",
    "VerificationFailed",
    "evidence_digest",
]
