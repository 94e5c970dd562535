"""Five hundred seeds: everything accepted ends, once, and every machine is clean or out of the pool."""

from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from tests.simulation.coverage import SEEDS_OF_TEST, missing
from tests.simulation.pool import outcome_of
from tests.simulation.run import Outcome, summary

SEEDS = SEEDS_OF_TEST
AT_ONCE = 25


@pytest.fixture(scope="module")
def outcomes(pool: ProcessPoolExecutor) -> dict[int, Future[Outcome]]:
    """What every seed comes to; each is run once, whoever asks."""
    return {seed: pool.submit(outcome_of, seed) for seed in range(1, SEEDS + 1)}


@pytest.mark.promise("P1", "P2", "P3", "P4", "P7", "P8", "P9", "P10", "P11", "P12", "P15", "P16", "P17", "P19", "P20")
@pytest.mark.parametrize("start", range(1, SEEDS + 1, AT_ONCE))
def test_seeds_hold(outcomes: dict[int, Future[Outcome]], start: int) -> None:
    """No invariant is broken in twenty-five seeds; a failing one names the command that does it again."""
    ended = [outcomes[seed].result() for seed in range(start, start + AT_ONCE)]
    failed = [outcome for outcome in ended if outcome.violations]
    assert not failed, "\n".join(f"make simulate SEEDS=1 START={one.seed}: {one.violations[:3]}" for one in failed)


@pytest.mark.promise("P3")
def test_every_fault_every_defence_and_every_driven_cell_was_met(
    outcomes: dict[int, Future[Outcome]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A counter at zero would mean that the seeds prove nothing about it."""
    ended = [outcome.result() for outcome in outcomes.values()]
    with capsys.disabled():
        print(f"\n{summary(ended)}")  # noqa: T201 - the figures are part of the proof
    counts: Counter[str] = Counter()
    for outcome in ended:
        counts.update(outcome.counts)
    assert not missing(counts, len(ended))
