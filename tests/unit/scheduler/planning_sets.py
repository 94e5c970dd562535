"""How many random sets of plugins each property of the planner is tried on."""

import os

VARIABLE = "MALBOX_PLANNER_SETS"
PROPERTIES = 5


def sets_per_property() -> int:
    """A hundred, which a unit test can afford; `tests.prove.plans` asks for ten thousand in total."""
    return int(os.environ.get(VARIABLE, "100"))
