"""When a plugin that does not become or stay ready is started again, and when no more. Pure: instants are seconds.

Only what no run can have caused counts here: a hostile sample that crashes its run again and again shuts nobody out.
"""

from dataclasses import dataclass, replace

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
DOUBLINGS_MAX = 10
FAULTS_MAX = 5
STEADY_S = 60.0


@dataclass(frozen=True)
class Faults:
    """How often in a row it failed by itself or its host could not start it, when the last time, and why then."""

    in_a_row: int = 0
    hindrances: int = 0
    last_at: float = 0.0
    reason: str = ""

    def another(self, reason: str, at: float) -> "Faults":
        """One more."""
        return replace(self, in_a_row=self.in_a_row + 1, last_at=at, reason=reason)

    def hindered(self, reason: str, at: float) -> "Faults":
        """One more that is its host's: it puts the next start off, and shuts nobody out."""
        return replace(self, hindrances=self.hindrances + 1, last_at=at, reason=reason)

    @property
    def is_quarantined(self) -> bool:
        """Whether it is started no more until somebody has mended it."""
        return self.in_a_row >= FAULTS_MAX

    def wait_s(self, now: float) -> float:
        """How long it is not started yet: twice as long each time, up to half a minute."""
        times = self.in_a_row + self.hindrances
        if times == 0:
            return 0.0
        pause_s = min(BACKOFF_FIRST_S * 2.0 ** min(times - 1, DOUBLINGS_MAX), BACKOFF_MAX_S)
        return max(0.0, self.last_at + pause_s - now)


NO_FAULTS = Faults()
