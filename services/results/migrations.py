"""Changes of this service's schema, oldest first. A released one is never edited."""

from importlib.resources import files

from services.chassis.housekeeping import Expiry

MIGRATIONS: tuple[str, ...] = (
    (files("services.results") / "schema.sql").read_text(encoding="utf-8"),
    # When a machine left a task, no record of packets of that lease comes any more.
    (
        "CREATE TABLE departures (task_id text, machine_id text, epoch integer, left_at timestamptz NOT NULL, "
        "PRIMARY KEY (task_id, machine_id, epoch))"
    ),
    (files("services.results") / "schema_3.sql").read_text(encoding="utf-8"),
    (files("services.results") / "schema_4.sql").read_text(encoding="utf-8"),
    # Results that were recorded before have no title, and stand under their names.
    "ALTER TABLE results ADD COLUMN title text NOT NULL DEFAULT ''",
)

EXPIRIES = (Expiry("departures", "left_at", 30), Expiry("named_results", "named_at", 30))
"""A report that was not sealed a month after its machine left, or results were named, waits for neither any more."""
