"""A service's clock takes no part in the jumps of the host's."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.clock import SLEW_MAX, SystemClock

pytestmark = pytest.mark.promise("P19")
START = 1_700_000_000.0
TOLERANCE_S = 1e-3


class Host:
    """A host whose clocks are set by hand."""

    def __init__(self) -> None:
        self.wall_s = START
        self.elapsed_s = 1000.0

    def clock(self) -> SystemClock:
        """A service's clock on this host."""
        return SystemClock(lambda: self.wall_s, lambda: self.elapsed_s)

    def pass_time(self, seconds: float, jump_s: float = 0.0) -> None:
        """So much time passes, and the wall clock jumps besides."""
        self.elapsed_s += seconds
        self.wall_s += seconds + jump_s


def test_without_jumps_it_is_the_host_s() -> None:
    """However long it runs."""
    host = Host()
    clock = host.clock()
    for _ in range(100):
        host.pass_time(3600.0)
        assert clock.now() == datetime.fromtimestamp(host.wall_s, UTC)


@given(st.lists(st.tuples(st.floats(0.0, 3600.0), st.floats(-1e6, 1e6)), max_size=30))
def test_it_never_goes_back_and_runs_at_nearly_the_right_rate(steps: list[tuple[float, float]]) -> None:
    """Whatever the host's clock does, a span lasts what it lasts, within the rate."""
    host = Host()
    clock = host.clock()
    for seconds, jump_s in steps:
        before = clock.now()
        host.pass_time(seconds, jump_s)
        span_s = (clock.now() - before).total_seconds()
        assert seconds * (1 - SLEW_MAX) - TOLERANCE_S <= span_s <= seconds * (1 + SLEW_MAX) + TOLERANCE_S


@pytest.mark.parametrize("jump_s", [-60.0, 60.0])
def test_a_clock_that_stays_set_is_caught_up_with(jump_s: float) -> None:
    """A minute within twenty."""
    host = Host()
    clock = host.clock()
    host.pass_time(1.0, jump_s)
    for _ in range(1_200):
        host.pass_time(1.0)
        clock.now()
    assert clock.now() == datetime.fromtimestamp(host.wall_s, UTC)
