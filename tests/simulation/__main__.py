"""`python -m tests.simulation --seeds N --start S` runs that many seeds and prints figures.

Exits 1 on a failure; from 500 seeds on also when something was never met that so many should have, from 5000 on
when anything that can happen was not.
"""

import argparse
import sys
import time
from collections import Counter

from tests.simulation.coverage import missing
from tests.simulation.pool import outcome_of, simulations
from tests.simulation.run import Outcome, summary


def main() -> int:
    """The exit status: 0 when every seed held, and all was met that so many seeds have to meet."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--start", type=int, default=1, help="the first")
    parser.add_argument("--processes", type=int, help="seeds run at once; by default the processors")
    asked = parser.parse_args()
    began = time.perf_counter()
    outcomes: list[Outcome] = []
    with simulations(asked.processes) as pool:
        for outcome in pool.map(outcome_of, range(asked.start, asked.start + asked.seeds)):
            outcomes.append(outcome)
            if outcome.violations:
                sys.stdout.write(shown(outcome))
                sys.stdout.flush()
    sys.stdout.write(figures(outcomes, time.perf_counter() - began))
    return status(outcomes)


def status(outcomes: list[Outcome]) -> int:
    """1 when a seed failed, or when something was never met; what that is, is printed."""
    counts = sum((outcome.counts for outcome in outcomes), Counter())
    unmet = missing(counts, len(outcomes))
    sys.stdout.write("".join(f"never met: {name}\n" for name in unmet))
    return int(bool(unmet) or any(outcome.violations for outcome in outcomes))


def shown(outcome: Outcome) -> str:
    """A failed seed, and the one command that does it again."""
    lines = [f"seed {outcome.seed} failed: make simulate SEEDS=1 START={outcome.seed}"]
    lines += [f"    {violation}" for violation in outcome.violations]
    return "\n".join(lines) + "\n"


def figures(outcomes: list[Outcome], took_s: float) -> str:
    """What the seeds came to."""
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        counts.update(outcome.counts)
    lines = [f"{name:>60} {count}" for name, count in sorted(counts.items())]
    lines.append(f"{summary(outcomes)}, {took_s:.1f} s, {len(outcomes) / took_s:.1f} seeds/s")
    if len(outcomes) == 1:
        lines.append(f"trace {outcomes[0].trace:016x}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
