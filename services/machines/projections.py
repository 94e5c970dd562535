"""Rows about machines: those that can be rebuilt from their events, and the service's other tables."""

from typing import Any

from services.chassis.housekeeping import Expiry
from services.chassis.projections import Projection, Recorded, Row
from services.machines.adapters import incarnations
from services.machines.domain.lifecycle import LEASED, NEW_EPOCH, successor

MIGRATION = """
CREATE TABLE fleet (
    stream uuid PRIMARY KEY, machine_id text NOT NULL UNIQUE, state text NOT NULL, since timestamptz NOT NULL,
    epoch integer NOT NULL, spec jsonb NOT NULL, acceleration text NOT NULL DEFAULT 'none',
    task_id text, why text NOT NULL DEFAULT ''
);
CREATE TABLE machine_history (
    stream uuid NOT NULL, version integer NOT NULL, at timestamptz NOT NULL, event text NOT NULL, state text NOT NULL,
    epoch integer NOT NULL, details jsonb NOT NULL, PRIMARY KEY (stream, version)
);
CREATE TABLE authorities (
    machine_id text PRIMARY KEY, ca_cert_pem text NOT NULL, ca_key_pem text NOT NULL, enrolment bytea NOT NULL
);
"""

MIGRATION_2 = """
ALTER TABLE fleet ADD COLUMN host text NOT NULL DEFAULT '', ADD COLUMN version integer NOT NULL DEFAULT 0,
ADD COLUMN lease_id text, ADD COLUMN term integer, ADD COLUMN hard_deadline_at timestamptz,
ADD COLUMN address text, ADD COLUMN verified_at timestamptz, ADD COLUMN cause text,
ADD COLUMN cures integer NOT NULL DEFAULT 0, ADD COLUMN wanted jsonb, ADD COLUMN wanted_image text,
ADD COLUMN is_drain_requested boolean NOT NULL DEFAULT false;
CREATE TABLE lease_beat (
    lease_id text PRIMARY KEY, machine_id text NOT NULL, term integer NOT NULL, beat bigint NOT NULL,
    heard_at timestamptz NOT NULL
);
CREATE TABLE incarnations (
    instance_id text PRIMARY KEY, machine_id text NOT NULL, epoch integer NOT NULL, seen_at timestamptz NOT NULL
);
CREATE TABLE refusals (
    operation_id text PRIMARY KEY, machine_id text NOT NULL, reason text NOT NULL, refused_at timestamptz NOT NULL
);
DELETE FROM machine_history;
DELETE FROM fleet;
DELETE FROM checkpoints WHERE projection = 'fleet';
"""

MIGRATION_3 = "DELETE FROM work WHERE kind IN ('provision', 'clean', 'verify', 'prepare', 'stop')"
"""Work has its host in its kind since. Whoever compares asks for it again after a minute."""

MIGRATION_4 = "ALTER TABLE fleet ADD COLUMN owner text"
"""Of a lease that was granted before, nobody but administrators sees the task."""

MIGRATIONS = (MIGRATION, MIGRATION_2, MIGRATION_3, MIGRATION_4)

EXPIRIES = (
    Expiry("lease_beat", "heard_at", 1),
    Expiry("incarnations", "seen_at", incarnations.KEPT_DAYS),
    Expiry("refusals", "refused_at", 14),
)

_PRIVATE = frozenset({"originator_id", "originator_version", "originator_topic", "timestamp"})
_NOBODYS = dict.fromkeys(("task_id", "lease_id", "term", "hard_deadline_at", "owner"))


def follow(row: Row | None, recorded: Recorded) -> Row | None:
    """One event moves its machine's row."""
    event, name = recorded.event, type(recorded.event).__name__
    if name == "Registered":
        return row or _registered(recorded)
    if row is None:
        return None
    state = successor(row["state"], name) or row["state"]
    epoch = event.epoch if name == "EpochRepaired" else row["epoch"] + (name in NEW_EPOCH)
    moved = {**row, "state": state, "epoch": epoch, "version": recorded.version}
    if state != row["state"] or name in NEW_EPOCH:
        moved |= {"since": event.timestamp, "why": getattr(event, "reason", "")}
    if state not in LEASED:
        moved |= _NOBODYS
    if state != "quarantined":
        moved["cause"] = None
    particular = _PARTICULARS.get(name)
    return moved | particular(row, event) if particular else moved


def entry(row: Row, recorded: Recorded) -> Row:
    """One event extends its machine's history."""
    event = recorded.event
    return {
        "stream": recorded.stream,
        "version": recorded.version,
        "at": event.timestamp,
        "event": type(event).__name__,
        "state": row["state"],
        "epoch": row["epoch"],
        "details": {key: value for key, value in vars(event).items() if key not in _PRIVATE},
    }


def _registered(recorded: Recorded) -> Row:
    event = recorded.event
    return {
        "stream": recorded.stream,
        "machine_id": event.spec["machine_id"],
        "host": event.spec["host"],
        "state": "registered",
        "since": event.timestamp,
        "epoch": 0,
        "version": recorded.version,
        "spec": event.spec,
        "wanted": event.spec,
        "wanted_image": "",
        "acceleration": "none",
        "why": "",
        "address": None,
        "verified_at": None,
        "cause": None,
        "cures": 0,
        "is_drain_requested": False,
        **_NOBODYS,
    }


def _leased(_row: Row, event: Any) -> Row:
    return {
        "task_id": event.task_id,
        "lease_id": event.lease_id,
        "term": 1,
        "hard_deadline_at": event.hard_deadline_at,
        "owner": event.owner,
    }


def _verified(row: Row, event: Any) -> Row:
    endpoint = event.endpoint
    return {
        "verified_at": event.timestamp,
        "address": f"{endpoint['host']}:{endpoint['port']}" if endpoint else None,
        "cures": 0 if event.has_served else row["cures"],
    }


def _wanted(_row: Row, event: Any) -> Row:
    return {"wanted": event.spec, "wanted_image": event.image_identity}


def _changed(row: Row, event: Any) -> Row:
    return {**_wanted(row, event), "spec": event.spec, "host": event.spec["host"], "cures": 0}


def _started(row: Row, event: Any) -> Row:
    cures = 0 if event.by else row["cures"] + (row["state"] == "quarantined")
    return {"cures": cures, **_image(row, event)}


def _provisioned(row: Row, event: Any) -> Row:
    return {"acceleration": event.acceleration, **_image(row, event)}


def _image(row: Row, event: Any) -> Row:
    """Of which image it is, unless it is to become something else."""
    return {"wanted_image": event.image_identity} if row["wanted"] == row["spec"] else {}


_PARTICULARS: dict[str, Any] = {
    "Leased": _leased,
    "LeaseAdopted": lambda _row, event: {"term": event.term},
    "CleanVerified": _verified,
    "SpecRequested": _wanted,
    "SpecChanged": _changed,
    "ProvisioningStarted": _started,
    "Provisioned": _provisioned,
    "Quarantined": lambda _row, event: {"cause": event.cause},
    "IsolationBreached": lambda _row, _event: {"cause": "isolation_breached"},
    "DrainRequested": lambda _row, _event: {"is_drain_requested": True},
    "DrainCancelled": lambda _row, _event: {"is_drain_requested": False},
    "MaintenanceStarted": lambda _row, _event: {"is_drain_requested": False},
    "Returned": lambda _row, _event: {"is_drain_requested": False, "cures": 0},
}
"""What an event changes beyond the state: (row before, event) -> columns."""

FLEET = Projection("fleet", table="fleet", follow=follow, history="machine_history", entry=entry)
