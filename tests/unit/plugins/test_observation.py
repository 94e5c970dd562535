"""Watching ends by the first rule that holds, and the rule is named."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.planning import EndedBy
from services.plugins.policy.observation import HEARTBEAT_MISSING_S, SETTLE_S, Observation, ended_by, next_look_at

AT_WORK = Observation(started_at=100.0, window_s=30.0, hard_at=200.0, heartbeat_at=125.0)


@pytest.mark.promise("C5")
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
        ({"is_cancelled": True, "tree_empty_at": 110.0}, 129.0, "cancelled"),
        ({"heartbeat_at": 110.0}, 119.9, None),
        ({"heartbeat_at": 110.0}, 120.0, "guest_lost"),
        ({"heartbeat_at": 110.0, "tree_empty_at": 110.0}, 120.0, "guest_lost"),
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


def test_the_settle_time_and_the_heartbeat_are_those_of_the_design() -> None:
    """One second for the tree, ten for the agent."""
    assert (SETTLE_S, HEARTBEAT_MISSING_S) == (1.0, 10.0)
