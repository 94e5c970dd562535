"""What an observation means for a machine: one finding at most, or none when all is as the record says. Pure.

A record is judged as it stands in a row, to see who is worth a closer look, and again as an aggregate, before anything
is recorded. Unable to observe is not "off": without a picture of the domains only clocks are judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from contracts.machines import ExpiryCause
from services.machines.domain.lifecycle import LEASED, State
from services.machines.domain.machine import Machine
from services.machines.domain.record import SELF_CURED, SELF_CURES_MAX
from services.machines.policy.work import (
    EVIDENCE_MAX_AGE_S,
    SELF_CURE_DELAYS_S,
    STATE_MAX_S,
    WORK_MISSING_S,
    WORK_OF_STATE,
)
from services.machines.ports import DomainSeen

Act = Literal["repair", "expire", "hurry", "cure", "work", "drift", "renew", "destroy"]


@dataclass(frozen=True)
class Standing:
    """What of a machine's record an observation is compared with. `address` is `host:port` of its agent."""

    machine_id: str
    state: State
    since: datetime | None
    epoch: int
    lease_id: str | None
    hard_deadline_at: datetime | None
    address: str | None
    verified_at: datetime | None
    cures: int
    cause: str | None

    @classmethod
    def of(cls, machine: Machine) -> "Standing":
        """The machine's."""
        endpoint = machine.endpoint or machine.next_endpoint
        return cls(
            machine_id=machine.machine_id,
            state=machine.state,
            since=machine.since,
            epoch=machine.epoch,
            lease_id=machine.lease_id,
            hard_deadline_at=machine.hard_deadline_at,
            address=f"{endpoint.host}:{endpoint.port}" if endpoint else None,
            verified_at=machine.verified_at,
            cures=machine.self_cures,
            cause=machine.quarantine_cause,
        )

    @property
    def incarnation_epoch(self) -> int:
        """The epoch that its domain carries: it was restored one epoch before the lease."""
        return self.epoch - 1 if self.state in LEASED else self.epoch


@dataclass(frozen=True)
class Picture:
    """One observation: domains by machine (None when they could not be seen or believed), fences, work in hand."""

    domains: Mapping[str, DomainSeen] | None
    fences: Mapping[str, int]
    work: frozenset[tuple[str, str]]
    now: datetime


@dataclass(frozen=True)
class Finding:
    """What is to be done about a machine. `kind` is the same for the same divergence, whatever the sentence says."""

    act: Act
    kind: str
    reason: str
    cause: ExpiryCause = "guest_lost"


def judge(standing: Standing, picture: Picture) -> Finding | None:
    """The first of what is to be done, or None."""
    return _of_fence(standing, picture) or _of_clock(standing, picture) or _of_domain(standing, picture)


def _of_fence(standing: Standing, picture: Picture) -> Finding | None:
    fence = picture.fences.get(standing.machine_id, -1)
    if standing.state == "retired" or fence <= standing.epoch:
        return None
    return Finding("repair", "fence_ahead", f"the host acted for epoch {fence}, the record knows {standing.epoch}")


def _of_clock(standing: Standing, picture: Picture) -> Finding | None:
    now, state = picture.now, standing.state
    if standing.hard_deadline_at is not None and now > standing.hard_deadline_at:
        return Finding("expire", "overdue", "the lease reached its hard deadline", "deadline")
    if standing.since is None:
        return None
    age_s = (now - standing.since).total_seconds()
    if age_s >= STATE_MAX_S.get(state, age_s + 1):
        return Finding("hurry", "late", f"{state} for {age_s:.0f} s")
    if state == "quarantined" and standing.cause in SELF_CURED and standing.cures < SELF_CURES_MAX:
        is_due = age_s >= SELF_CURE_DELAYS_S[min(standing.cures, len(SELF_CURE_DELAYS_S) - 1)]
        return Finding("cure", "cure", "its quarantine may end by itself") if is_due else None
    work = WORK_OF_STATE.get(state)
    if work not in (None, "stop") and age_s >= WORK_MISSING_S and (work, standing.machine_id) not in picture.work:
        return Finding("work", "work_lost", f"{state} for {age_s:.0f} s, and nobody works on it")
    return None


def _of_domain(standing: Standing, picture: Picture) -> Finding | None:
    if picture.domains is None:
        return None
    domain = picture.domains.get(standing.machine_id)
    match standing.state:
        case "ready":
            return _unready(standing, domain) or _aged(standing, picture.now)
        case "preparing" | "active":
            return _lost(standing, domain)
        case "quarantined" if domain is not None:
            return Finding("work", "runs", "it is quarantined and has a domain")
        case "registered" | "retired" if domain is not None:
            return Finding("destroy", "runs", f"it is {standing.state} and has a domain")
        case _:
            # Neither work in progress is judged, nor a guest whose evidence is collected, nor what is an operator's.
            return None


def _unready(standing: Standing, domain: DomainSeen | None) -> Finding | None:
    if domain is not None and domain.state != "paused":
        return Finding("drift", "domain_state", f"its domain is {domain.state}, not paused")
    fault = _other(standing, domain)
    return Finding("drift", *fault) if fault else None


def _lost(standing: Standing, domain: DomainSeen | None) -> Finding | None:
    if domain is not None and domain.state == "off":
        return Finding("expire", "domain_gone", "its virtual machine ended")
    if domain is not None and standing.state == "active" and domain.state != "running":
        return Finding("expire", "domain_state", f"its virtual machine is {domain.state}, not running")
    fault = _other(standing, domain)
    return Finding("expire", *fault) if fault else None


def _other(standing: Standing, domain: DomainSeen | None) -> tuple[str, str] | None:
    """Why it is not the incarnation that was verified, or at another place than recorded."""
    if domain is None:
        return "domain_gone", "its virtual machine is gone"
    if domain.epoch != standing.incarnation_epoch:
        return "domain_epoch", f"its domain is of epoch {domain.epoch}, not of {standing.incarnation_epoch}"
    place = f"{domain.address.host}:{domain.address.port}" if domain.address else None
    if standing.address is not None and place != standing.address:
        return "address", f"its agent is at {place}, not at {standing.address}"
    return None


def _aged(standing: Standing, now: datetime) -> Finding | None:
    if standing.verified_at is not None and now - standing.verified_at <= timedelta(seconds=EVIDENCE_MAX_AGE_S):
        return None
    return Finding("renew", "evidence", "its evidence of clean is too old")
