"""What holds of every plan, over many random sets of plugins: `python -m tests.prove.plans --sets 10000`.

The properties are those of the unit tests, which draw fewer sets each time.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.scheduler import planning_sets

PROPERTIES = Path(__file__).parents[1] / "unit/scheduler/test_planning_properties.py"


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every property held of every set."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.plans")
    parser.add_argument("--sets", type=int, default=10_000, help="random sets in total, over all properties")
    sets = parser.parse_args(argv).sets
    os.environ[planning_sets.VARIABLE] = str(-(-sets // planning_sets.PROPERTIES))
    status = int(pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", "--timeout=3600", str(PROPERTIES)]))
    sys.stdout.write(f"{sets} random sets of plugins, {planning_sets.PROPERTIES} properties\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
