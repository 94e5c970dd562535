"""Use cases: an aggregate, a wish, an outcome. Each records what happened and the work that follows from it."""

from services.machines.app import operators, repeat
from services.machines.app.leases import adopt, breach, drain, expire, lease, release, tell_capture
from services.machines.app.recording import begin_work, record, set_timers
from services.machines.app.upkeep import carry_out, cure, hurry, introduce, quarantine, settle

__all__ = [
    "adopt",
    "begin_work",
    "breach",
    "carry_out",
    "cure",
    "drain",
    "expire",
    "hurry",
    "introduce",
    "lease",
    "operators",
    "quarantine",
    "record",
    "release",
    "repeat",
    "set_timers",
    "settle",
    "tell_capture",
]
