"""`python -m tests.simulation.pairs`: every pair of defences is taken away, and each has to be missed.

One missing defence may hide what another would have shown. Prints after how many seeds each pair was noticed, and how.
"""

import sys
from itertools import combinations

from tests.simulation.mutants import SINGLE, Mutation, seeds_until_caught
from tests.simulation.pool import simulations

WORDS_MAX = 80


def main() -> int:
    """0 when every pair was noticed."""
    unnoticed, most, pairs = [], 0, list(combinations(SINGLE, 2))
    with simulations() as pool:
        for ((one, _), (other, _)), found in zip(pairs, pool.map(until_caught, pairs), strict=True):
            if found is None:
                unnoticed.append(named(one, other))
            seeds, said = found or (0, "not noticed")
            most = max(most, seeds)
            _say(f"{named(one, other)}: {seeds or '-'} seeds, {said[:WORDS_MAX]}")
    _say(f"{len(pairs)} pairs of missing defences, {len(unnoticed)} not noticed; at most {most} seeds for one")
    return int(bool(unnoticed))


def until_caught(pair: tuple[tuple[Mutation, int], tuple[Mutation, int]]) -> tuple[int, str] | None:
    """After how many seeds the pair was noticed, and by what; each defence comes with the seeds that it may take."""
    (one, one_max), (other, other_max) = pair
    return seeds_until_caught((one, other), start=1, seeds_max=max(one_max, other_max))


def named(one: Mutation, other: Mutation) -> str:
    """The pair's name."""
    return f"{one.__name__} + {other.__name__}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
