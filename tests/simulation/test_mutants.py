"""Every defence that is taken away is missed, within so many seeds."""

import pytest

from tests.simulation import mutants
from tests.simulation.mutants import SINGLE, Mutation, seeds_until_caught

PAIRS: tuple[tuple[Mutation, Mutation, int], ...] = (
    (mutants.released_though_the_stop_failed, mutants.restore_leaves_the_old_process, 40),
    (mutants.amnesia_at_restart, mutants.no_fence_at_the_host, 20),
    (mutants.inbox_without_dedupe, mutants.append_without_a_version_check, 20),
    (mutants.whoever_answers_is_the_guest, mutants.no_fence_at_the_host, 60),
    (mutants.term_not_checked, mutants.a_lease_never_expires, 60),
)


@pytest.mark.parametrize(("mutation", "seeds_max"), SINGLE, ids=[mutation.__name__ for mutation, _ in SINGLE])
def test_a_missing_defence_is_noticed(mutation: Mutation, seeds_max: int) -> None:
    """The simulation sees that it is gone."""
    assert seeds_until_caught((mutation,), start=1, seeds_max=seeds_max) is not None


@pytest.mark.parametrize(
    ("one", "other", "seeds_max"), PAIRS, ids=[f"{one.__name__}-{other.__name__}" for one, other, _ in PAIRS]
)
def test_two_missing_defences_are_noticed(one: Mutation, other: Mutation, seeds_max: int) -> None:
    """So it does when both are gone that stand behind each other."""
    assert seeds_until_caught((one, other), start=1, seeds_max=seeds_max) is not None
