"""Who is dealt with in a pass when not everybody can be."""

from hypothesis import given
from hypothesis import strategies as st

from services.machines.reconcile.turns import Turns

NAMES = st.sets(st.text("abc", min_size=1, max_size=3), max_size=20)


@given(NAMES, st.integers(1, 6))
def test_everybody_who_stays_has_a_turn_before_anybody_has_a_second(names: set[str], at_once: int) -> None:
    """Each round is everybody, in order."""
    turns = Turns(at_once)
    taken = [name for _ in range(len(names)) for name in turns.take(names)]
    rounds = [taken[start : start + len(names)] for start in range(0, len(taken), len(names) or 1)]
    assert all(one == sorted(names)[: len(one)] for one in rounds)


@given(st.lists(NAMES, max_size=8), st.integers(1, 6))
def test_as_many_are_taken_as_may_be(passes: list[set[str]], at_once: int) -> None:
    """Each once, whoever came and went since."""
    turns = Turns(at_once)
    for names in passes:
        taken = turns.take(names)
        assert len(taken) == len(set(taken)) == min(at_once, len(names))
        assert set(taken) <= names
