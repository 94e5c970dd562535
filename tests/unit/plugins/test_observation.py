"""Watching ends by the first rule that holds, and the rule is named."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.planning import EndedBy
from services.plugins.policy.observation import (
    HEARTBEAT_MISSING_S,
    SETTLE_S,
    Observation,
    ended_by,
    hard_at,
    next_look_at,
)

AT_WORK = Observation(started_at=100.0, window_s=30.0, hard_at=200.0, heartbeat_at=125.0)


@pytest.mark.promise("C5", "A4")
@pytest.mark.parametrize(
    ("change", "now", "rule"),
    [
        ({}, 129.9, None),
        ({}, 130.0, "window"),
        ({"tree_empty_at": 110.0}, 110.9, None),
        ({"tree_empty_at": 110.0}, 111.0, "sample_exit"),
        ({"tree_empty_at": 110.0, "is_enforced": True}, 129.0, None),
        ({"tree_empty_at": 110.0, "is_enforced": True}, 130.0, "window"),
        ({"hard_at": 120.0}, 120.0, "timeout"),
        ({"is_kept_alive": True, "tree_empty_at": 110.0, "heartbeat_at": 199.0}, 199.9, None),
        ({"is_kept_alive": True, "heartbeat_at": 199.0}, 200.0, "timeout"),
        ({"released_at": 140.0, "heartbeat_at": 140.0}, 140.0, "plugin"),
        ({"released_at": 120.0}, 130.0, "window"),
        ({"released_at": 120.0, "tree_empty_at": 110.0}, 120.0, "sample_exit"),
        ({"is_kept_alive": True, "is_enforced": True, "heartbeat_at": 199.0}, 199.0, None),
        ({"is_kept_alive": True, "is_cancelled": True}, 129.0, "cancelled"),
        ({"is_kept_alive": True, "heartbeat_at": 105.0}, 125.0, "guest_lost"),
        ({"is_cancelled": True, "tree_empty_at": 110.0}, 129.0, "cancelled"),
        ({"heartbeat_at": 105.0}, 124.9, None),
        ({"heartbeat_at": 105.0}, 125.0, "guest_lost"),
        ({"heartbeat_at": 105.0, "tree_empty_at": 124.5}, 125.0, "guest_lost"),
    ],
)
def test_the_rule_of_the_design_decides(change: dict[str, float], now: float, rule: EndedBy | None) -> None:
    """Each end of 04-tasks at its instant, and not an instant before."""
    assert ended_by(replace(AT_WORK, **change), now) == rule  # type: ignore[arg-type]


instants = st.floats(0, 1000, allow_nan=False)


@given(
    started_at=instants,
    window_s=instants,
    hard_at=instants,
    heartbeat_at=instants,
    tree_empty_at=st.none() | instants,
    is_enforced=st.booleans(),
    is_kept_alive=st.booleans(),
    released_at=st.none() | instants,
    now=instants,
)
def test_nothing_changes_before_the_next_look(now: float, **known: float) -> None:
    """Whoever sleeps until then misses no end; and there is always an end."""
    observation = Observation(**known)  # type: ignore[arg-type]
    look_at = next_look_at(observation)
    if ended_by(observation, now) is None:
        assert look_at > now
        assert ended_by(observation, look_at + 1e-6) is not None
    assert ended_by(observation, 3000.0) is not None


def test_the_settle_time_and_the_heartbeat_are_those_that_the_readme_says() -> None:
    """One second for the tree, twenty for the agent."""
    assert (SETTLE_S, HEARTBEAT_MISSING_S) == (1.0, 20.0)


@st.composite
def watches(draw: st.DrawFn) -> Observation:
    """A watch on a guest that shows signs of life to the end, with a hard timeout behind the window."""
    started_at, window_s, grace_s = (draw(st.floats(0, 300, allow_nan=False)) for _ in range(3))
    return Observation(
        started_at=started_at,
        window_s=window_s,
        hard_at=started_at + window_s + grace_s,
        heartbeat_at=10_000.0,
        tree_empty_at=draw(st.none() | st.floats(0, 1000, allow_nan=False)),
        is_enforced=draw(st.booleans()),
        is_kept_alive=draw(st.booleans()),
        released_at=draw(st.none() | st.floats(0, 1000, allow_nan=False)),
    )


@pytest.mark.promise("C5", "A4", "P32")
@given(watches(), instants)
def test_a_keep_alive_extends_up_to_the_hard_timeout_and_no_further(watch: Observation, now: float) -> None:
    """Held, the hard timeout is the only end; it ends whatever is held, and nothing outlives it."""
    rule = ended_by(watch, now)
    if now >= watch.hard_at:
        assert rule == "timeout"
    elif watch.is_kept_alive:
        assert rule is None
    elif now >= watch.window_ends_at:
        assert rule == ("plugin" if watch.is_extended else "window")


@pytest.mark.promise("A4")
@given(watches(), instants)
def test_a_watch_whose_full_time_is_asked_for_does_not_end_before_it(watch: Observation, now: float) -> None:
    """Whatever the sample does; and without that wish, a tree that is gone for a second ends it."""
    enforced, free = replace(watch, is_enforced=True), replace(watch, is_enforced=False, is_kept_alive=False)
    if now < watch.window_ends_at:
        assert ended_by(enforced, now) is None
        is_gone = watch.tree_empty_at is not None and now >= watch.tree_empty_at + SETTLE_S
        assert ended_by(free, now) == ("sample_exit" if is_gone else None)


@pytest.mark.promise("P11", "P32")
@given(*(st.floats(0, 5000, allow_nan=False) for _ in range(5)))
def test_there_is_always_time_to_collect_before_the_lease_ends(
    started_at: float, window_s: float, grace_s: float, lease_ends_at: float, collection_s: float
) -> None:
    """The hard timeout is window and grace, unless the lease ends too early for that."""
    at = hard_at(
        started_at=started_at,
        window_s=window_s,
        grace_s=grace_s,
        lease_ends_at=lease_ends_at,
        collection_s=collection_s,
    )
    assert at + collection_s <= lease_ends_at + 1e-6
    assert at <= started_at + window_s + grace_s
    assert at in (started_at + window_s + grace_s, lease_ends_at - collection_s)
