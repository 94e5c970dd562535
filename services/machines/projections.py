"""Rows about machines that can be rebuilt from their events."""

import orjson

from services.chassis.projections import Projection, Recorded
from services.chassis.store import Connection
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


async def apply(recorded: Recorded, connection: Connection) -> None:
    """One event moves its machine's row and extends its history."""
    event = recorded.event
    name = type(event).__name__
    details = {key: value for key, value in vars(event).items() if key not in _PRIVATE}
    if name == "Registered":
        await connection.execute(
            "INSERT INTO fleet (stream, machine_id, state, since, epoch, spec) "
            "VALUES ($1, $2, 'registered', $3, 0, $4) ON CONFLICT (stream) DO NOTHING",
            recorded.stream,
            event.spec["machine_id"],
            event.timestamp,
            orjson.dumps(event.spec).decode(),
        )
        state, epoch = "registered", 0
    else:
        row = await connection.fetchrow("SELECT state, epoch FROM fleet WHERE stream = $1", recorded.stream)
        if row is None:
            return
        state = successor(row["state"], name) or row["state"]
        epoch = event.epoch if name == "EpochRepaired" else row["epoch"] + (name in NEW_EPOCH)
        await _move(recorded, connection, state, epoch)
    await connection.execute(
        "INSERT INTO machine_history VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        recorded.stream,
        recorded.version,
        event.timestamp,
        name,
        state,
        epoch,
        orjson.dumps(details, default=str).decode(),
    )


async def _move(recorded: Recorded, connection: Connection, state: str, epoch: int) -> None:
    event = recorded.event
    spec = getattr(event, "spec", None)
    await connection.execute(
        "UPDATE fleet SET state = $2, epoch = $3, since = $4, why = $5, "
        "acceleration = coalesce($6, acceleration), spec = coalesce($7, spec), "
        "task_id = CASE WHEN $2 IN ('preparing', 'active', 'draining') THEN coalesce($8, task_id) END "
        "WHERE stream = $1",
        recorded.stream,
        state,
        epoch,
        event.timestamp,
        getattr(event, "reason", ""),
        getattr(event, "acceleration", None),
        orjson.dumps(spec).decode() if spec else None,
        getattr(event, "task_id", None),
    )


FLEET = Projection("fleet", ("fleet", "machine_history"), apply)
