"""What seeds must have met: nothing is excused but what cannot happen, and what is rare only in a short run."""

from collections import Counter

import pytest

from tests.simulation.__main__ import status
from tests.simulation.coverage import (
    DEFENCES,
    FAULT_COUNTERS,
    IMPOSSIBLE,
    RARE,
    SEEDS_OF_RELEASE,
    SEEDS_OF_TEST,
    missing,
)
from tests.simulation.run import Outcome
from tests.simulation.truth import cells

EVERYTHING = {*FAULT_COUNTERS, *DEFENCES, *cells()}


def outcomes(met: set[str], seeds: int) -> list[Outcome]:
    """So many seeds, the first of which met all that."""
    first = Outcome(1, 0, 1, 1.0, 1.0, Counter(dict.fromkeys(met, 1)), [])
    return [first, *(Outcome(seed, 0, 1, 1.0, 1.0, Counter(), []) for seed in range(2, seeds + 1))]


def test_only_what_is_counted_is_excused() -> None:
    """An entry of a name that nobody counts, or that is excused twice, would excuse nothing that anybody sees."""
    assert IMPOSSIBLE.keys() <= EVERYTHING
    assert RARE <= EVERYTHING
    assert not RARE & IMPOSSIBLE.keys()


def test_a_run_as_long_as_a_release_fails_for_whatever_was_never_met() -> None:
    """Also for what is rare; five hundred seeds are excused that, and nothing else."""
    for name in sorted(EVERYTHING - IMPOSSIBLE.keys()):
        met = Counter(dict.fromkeys(EVERYTHING - {name}, 1))
        assert missing(met, SEEDS_OF_RELEASE) == [name]
        assert missing(met, SEEDS_OF_TEST) == ([] if name in RARE else [name])
        assert missing(met, SEEDS_OF_TEST - 1) == []


def test_a_long_run_says_what_it_never_met_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever releases reads a name, not a figure that is not there."""
    assert status(outcomes(EVERYTHING - {"plugin_crash"}, SEEDS_OF_RELEASE)) == 1
    assert capsys.readouterr().out == "never met: plugin_crash\n"
    assert status(outcomes(EVERYTHING, SEEDS_OF_RELEASE)) == 0
    assert status(outcomes(set(), SEEDS_OF_TEST - 1)) == 0
