"""Rows about machines that can be rebuilt from their events."""

from services.chassis.projections import Projection, Recorded, Row
from services.machines.domain.lifecycle import NEW_EPOCH, successor

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

_PRIVATE = frozenset({"originator_id", "originator_version", "originator_topic", "timestamp"})
_LEASED = ("preparing", "active", "draining")


def follow(row: Row | None, recorded: Recorded) -> Row | None:
    """One event moves its machine's row."""
    event, name = recorded.event, type(recorded.event).__name__
    if name == "Registered":
        return row or {
            "stream": recorded.stream,
            "machine_id": event.spec["machine_id"],
            "state": "registered",
            "since": event.timestamp,
            "epoch": 0,
            "spec": event.spec,
            "acceleration": "none",
            "task_id": None,
            "why": "",
        }
    if row is None:
        return None
    state = successor(row["state"], name) or row["state"]
    return {
        **row,
        "state": state,
        "epoch": event.epoch if name == "EpochRepaired" else row["epoch"] + (name in NEW_EPOCH),
        "since": event.timestamp,
        "why": getattr(event, "reason", ""),
        "acceleration": getattr(event, "acceleration", None) or row["acceleration"],
        "spec": getattr(event, "spec", None) or row["spec"],
        "task_id": (getattr(event, "task_id", None) or row["task_id"]) if state in _LEASED else None,
    }


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


FLEET = Projection("fleet", table="fleet", follow=follow, history="machine_history", entry=entry)
