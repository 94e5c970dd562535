"""An end to work on hostile bytes that the plugin itself sets, so that what was found by then is still emitted.

The sandbox's own deadline ends the process, and with it everything that was not emitted yet.
"""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

AGAIN_S = 0.5  # libraries that catch everything meet it more than once


class OutOfTime(BaseException):
    """The processor time is used up. Not an Exception: parsing libraries go on after those."""


@dataclass
class CpuBudget:
    """`is_spent`: the work was cut short."""

    seconds: float
    is_spent: bool = False


@contextlib.contextmanager
def cpu_budget(seconds: float) -> Iterator[CpuBudget]:
    """The block ends after so much processor time of this process, and what comes after it runs. Main thread only."""
    budget = CpuBudget(seconds)

    def stop(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        budget.is_spent = True
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN_S)
    try:
        yield budget
    except OutOfTime:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
