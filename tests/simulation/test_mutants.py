"""Every defence that is taken away is missed, within so many seeds."""

from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from tests.simulation import mutants
from tests.simulation.mutants import EVENTFUL, SINGLE, Mutation, seeds_until_caught

PAIRS: tuple[tuple[Mutation, Mutation, int], ...] = (
    (mutants.released_though_the_stop_failed, mutants.restore_leaves_the_old_process, 40),
    (mutants.amnesia_at_restart, mutants.no_fence_at_the_host, 20),
    (mutants.inbox_without_dedupe, mutants.append_without_a_version_check, 20),
    (mutants.whoever_answers_is_the_guest, mutants.no_fence_at_the_host, 60),
    (mutants.term_not_checked, mutants.a_lease_never_expires, 60),
)


Caught = Future[tuple[int, str] | None]


@pytest.fixture(scope="module")
def caught(pool: ProcessPoolExecutor) -> dict[tuple[Mutation, ...], Caught]:
    """After how many seeds each is noticed, and by what."""
    cases = [*(((one,), seeds_max) for one, seeds_max in SINGLE), *(((a, b), seeds_max) for a, b, seeds_max in PAIRS)]
    eventful = {
        (one,): pool.submit(seeds_until_caught, (one,), start=1, seeds_max=seeds_max, is_eventful=True)
        for one, seeds_max in EVENTFUL
    }
    return eventful | {
        case: pool.submit(seeds_until_caught, case, start=1, seeds_max=seeds_max) for case, seeds_max in cases
    }


@pytest.mark.parametrize(
    "mutation", [mutation for mutation, _ in (*SINGLE, *EVENTFUL)], ids=lambda mutation: mutation.__name__
)
def test_a_missing_defence_is_noticed(caught: dict[tuple[Mutation, ...], Caught], mutation: Mutation) -> None:
    """The simulation sees that it is gone."""
    assert caught[mutation,].result() is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [(one, other) for one, other, _ in PAIRS],
    ids=[f"{one.__name__}-{other.__name__}" for one, other, _ in PAIRS],
)
def test_two_missing_defences_are_noticed(
    caught: dict[tuple[Mutation, ...], Caught], one: Mutation, other: Mutation
) -> None:
    """So it does when both are gone that stand behind each other."""
    assert caught[one, other].result() is not None
