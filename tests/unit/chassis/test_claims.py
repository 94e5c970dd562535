"""A claim is judged by its beats, on clocks that need not agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.work.claims import HELD_S, TAKEN_AFTER_S, Claim, Observer

RATES = st.floats(min_value=0.5, max_value=2.0)


def claim(beats: int = 1, *, attempt: int = 1, is_orphaned: bool = False) -> Claim:
    """Somebody's claim, renewed that often."""
    return Claim(7, "clean", attempt, beats, is_orphaned)


@pytest.mark.promise("P19")
def test_a_claim_whose_beats_change_is_never_abandoned() -> None:
    """However long it is held; and the same claim is abandoned once they stand still for long enough."""
    observer = Observer()
    assert [observer.abandoned([claim(beats)], beats * 11.0) for beats in range(1, 50)] == [[]] * 49
    assert observer.abandoned([claim(49)], 49 * 11.0 + TAKEN_AFTER_S) == [claim(49)]


@pytest.mark.promise("P19")
def test_the_first_sight_of_a_claim_is_no_evidence_against_it() -> None:
    """An observer that has just started, or that slept for an hour, waits its full time."""
    observer = Observer()
    assert observer.abandoned([claim()], 1_000_000.0) == []
    assert observer.abandoned([claim(2)], 1_003_600.0) == []
    assert observer.abandoned([claim(2, attempt=2)], 1_003_612.0) == []


@pytest.mark.promise("P3")
def test_a_claim_whose_connection_is_gone_is_free_at_once() -> None:
    """It needs no second look."""
    assert Observer().abandoned([claim(is_orphaned=True)], 0.0) == [claim(is_orphaned=True)]


@pytest.mark.promise("P2", "P19")
@given(holder=RATES, observer=RATES, latency_s=st.floats(min_value=0, max_value=60))
def test_a_holder_has_stopped_before_another_may_begin(holder: float, observer: float, latency_s: float) -> None:
    """Its clock may run at two thirds of the observer's speed, and its last renewal may arrive as late as it likes."""
    stops_at = HELD_S / holder
    seen_at = latency_s
    taken_at = seen_at + TAKEN_AFTER_S / observer
    if observer <= 1.5 * holder:
        assert stops_at <= taken_at * (1 + 1e-9)
