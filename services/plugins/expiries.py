"""How long the service remembers what it knows of a task: until some time after its end, and while anything may repeat.

An order that is delivered again after the end finds that its stage was ordered. What the broker holds comes within
`INBOX_DAYS`; what an operator may still replay, and what work is to do, is waited for.
"""

from services.chassis.housekeeping import Expiry

KEPT_DAYS = 30
"""After the end of the task. Longer than the inbox knows a message, so that no repetition finds the stage unknown."""
LATEST_DAYS = 400
"""What is said of a task goes with its end, and the rest after it. For tasks whose end nobody heard of; longer than any
may wait."""
OF_TASKS = ("stage_runs", "produced", "prepared", "stages")


def _at_rest(table: str) -> str:
    """Neither work nor a message that may be handled again is of the row's task."""
    return (
        f"NOT EXISTS (SELECT FROM work WHERE work.payload->>'task_id' = {table}.task_id) "  # noqa: S608 - our names
        f"AND NOT EXISTS (SELECT FROM parked WHERE parked.subject = {table}.task_id "
        f"AND (parked.state = 'parked' OR parked.decided_at > now() - interval '{KEPT_DAYS} days'))"
    )


_NOTHING_LEFT = " AND ".join(f"NOT EXISTS (SELECT FROM {one} WHERE {one}.task_id = pins.task_id)" for one in OF_TASKS)

EXPIRIES = (
    Expiry("late_results", "recorded_at", 30),
    *(Expiry(table, "ended_at", KEPT_DAYS, of="pins", only=_at_rest(table)) for table in OF_TASKS),
    *(Expiry(table, "recorded_at", LATEST_DAYS, only=_at_rest(table)) for table in OF_TASKS),
    Expiry("pins", "ended_at", KEPT_DAYS, only=_NOTHING_LEFT),
    Expiry("pins", "recorded_at", LATEST_DAYS),
    Expiry("said", "recorded_at", LATEST_DAYS),
)
"""The ends of tasks go last: what is left of a task is found by its end."""
