"""Time and identity, handed in so that what decides needs neither."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid4

import structlog

SLEW_MAX = 0.05
"""How much faster or slower than time itself a service's clock may run while it catches up with the host's."""
JUMP_MIN_S = 2.0
"""A difference worth a line in the log."""

log = structlog.get_logger()


class Clock(Protocol):
    """Says what time it is (UTC) and makes fresh identifiers."""

    def now(self) -> datetime:
        """This instant, in UTC."""

    def uuid(self) -> UUID:
        """An identifier never used before."""


def elapsed_s() -> float:
    """Seconds since the host started, the time in which it was suspended included (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """The host's clock as it was when the service started, and its random generator.

    It never goes back, and follows the host's at a bounded rate: budgets and deadlines that run while somebody sets the
    host's clock last as long as they were meant to.
    """

    def __init__(self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = elapsed_s) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._seen = elapsed()
        self._offset = wall() - self._seen
        self._is_apart = False

    def now(self) -> datetime:
        """This instant, in UTC."""
        elapsed = self._elapsed()
        room = SLEW_MAX * (elapsed - self._seen)
        apart = self._wall() - elapsed - self._offset
        self._seen = elapsed
        self._offset += max(-room, min(room, apart))
        self._tell(apart)
        return datetime.fromtimestamp(elapsed + self._offset, UTC)

    def uuid(self) -> UUID:
        """A random UUID (version 4)."""
        return uuid4()

    def _tell(self, apart: float) -> None:
        """A jump is told of once; so is that it was caught up with."""
        if (abs(apart) >= JUMP_MIN_S) != self._is_apart:
            self._is_apart = not self._is_apart
            log.warning("clock_jumped" if self._is_apart else "clock_was_caught_up_with", apart_s=round(apart, 1))
