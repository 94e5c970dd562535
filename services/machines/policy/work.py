"""Which work a machine's state calls for, and how long anything may take."""

from datetime import datetime, timedelta
from typing import Any

from services.machines.domain.machine import Machine

EVIDENCE_MAX_AGE_S = 12 * 3600
"""A machine that stood ready for longer is verified again."""
LEASE_MAX_S = 2 * 3600
"""No lease is granted for longer; certificates of a lease outlive it by no more than a ready machine may wait."""
SELF_CURE_DELAYS_S = (600.0, 3600.0)
"""How long a quarantined machine waits before it is built again by itself: its evidence is there to be looked at."""

STATE_MAX_S: dict[str, float] = {"provisioning": 1200.0, "verifying": 300.0, "preparing": 60.0, "draining": 300.0}
"""How long a machine may be in a state that somebody is to lead it out of. Longer is late, whoever is at fault."""

WORK_OF_STATE: dict[str, str] = {
    "provisioning": "provision",
    "cleaning": "clean",
    "verifying": "verify",
    "preparing": "prepare",
    "quarantined": "stop",
    "maintenance": "stop",
    "retired": "stop",
}
"""The work that a state calls for. Each kind is carried out in `effects`; in another state it is out of date."""
HOST_WORK = frozenset(WORK_OF_STATE.values())
"""Kinds of work that only the machine's own host can do: another would find nothing there, and call it gone."""

CALLS_FOR_NO_WORK: frozenset[type[Any]] = frozenset(
    {
        Machine.Registered,
        Machine.SpecRequested,
        Machine.LeaseAdopted,
        Machine.DrainRequested,
        Machine.DrainCancelled,
    }
)
"""Events that leave what is being done as it is."""


WORK_MISSING_S = 60.0
"""Work that a state calls for and that nobody has for so long was lost: it is asked for again."""
BEATS_MISSING_S = 45.0
"""A lease whose driver was not heard for so long, by the observer's own clock, is over."""


def on_host(kind: str, host: str) -> str:
    """The kind as it is asked for and taken: each host takes its own, however many share the store."""
    return f"{kind}@{host}" if kind in HOST_WORK else kind


def work_for(machine: Machine) -> str | None:
    """The kind of work that the machine's state calls for, of its own host, if any."""
    kind = WORK_OF_STATE.get(machine.state)
    return None if kind is None else on_host(kind, machine.spec.host)


def calls_for_work(event: Any) -> bool:
    """Whether the event is a reason to begin the work of the state that it led to."""
    return type(event) not in CALLS_FOR_NO_WORK


def is_late(machine: Machine, now: datetime) -> bool:
    """Whether the machine has been in its state for longer than anybody may take."""
    limit_s = STATE_MAX_S.get(machine.state)
    return limit_s is not None and machine.since is not None and now - machine.since >= timedelta(seconds=limit_s)


def self_cure_delay_s(machine: Machine) -> float:
    """How long the quarantine lasts before the machine is built again by itself, seconds."""
    return SELF_CURE_DELAYS_S[min(machine.self_cures, len(SELF_CURE_DELAYS_S) - 1)]
