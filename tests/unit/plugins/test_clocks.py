"""The deadlines of a guest stage are on the host's monotonic clock."""

from datetime import UTC, datetime, timedelta

import pytest

from services.plugins.sitting import Clocks

WALL = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.promise("P19", "P32")
def test_an_instant_that_was_written_down_is_put_on_the_monotonic_clock_once() -> None:
    """A driver that adopts counts from its predecessor's launch; afterwards only the monotonic clock moves anything."""
    now = [100.0]
    clock = Clocks(lambda: now[0], WALL, now[0])
    launched_at = WALL - timedelta(seconds=7)
    assert clock.monotonic(launched_at) == 93.0
    now[0] += 20
    assert clock.monotonic(launched_at) == 93.0
    assert clock.wall() == WALL + timedelta(seconds=20)
    assert clock.monotonic(clock.wall()) == now[0]
