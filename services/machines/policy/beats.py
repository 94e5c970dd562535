"""Whether the driver of a lease lives, judged by one observer's own clock. Pure: instants are handed in.

Only time during which the observer looked counts: one that slept, or could not read, has not seen anybody be silent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from services.machines.policy.work import BEATS_MISSING_S

LOOK_INTERVAL_S = 5.0
REPEAT_INTERVAL_S = 60.0
Beat = tuple[int, int]
"""(term, beat): either one grows."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done about a lease."""

    act: Literal["expire", "adopt", "repeat"]
    lease_id: str
    term: int = 0


@dataclass
class _Seen:
    beat: Beat | None
    silent_s: float = 0.0
    unrepeated_s: float = 0.0


class Observer:
    """Remembers what it last saw of each lease, and for how long it has looked at nothing new."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._looked_at: float | None = None

    def look(self, leases: Mapping[str, int], beats: Mapping[str, Beat], now_s: float) -> list[Verdict]:
        """Verdicts on the leases in force (their recorded terms by lease id), given the beats of their drivers.

        A lease that nobody ever drove is not lost: its grant may not have been heard, so it is to be said again.
        """
        looked_s = 0.0 if self._looked_at is None else min(now_s - self._looked_at, 2 * LOOK_INTERVAL_S)
        self._looked_at = now_s
        self._seen = {lease_id: seen for lease_id, seen in self._seen.items() if lease_id in leases}
        verdicts: list[Verdict] = []
        for lease_id, term in leases.items():
            verdicts += self._judge(lease_id, term, beats.get(lease_id), looked_s)
        return verdicts

    def _judge(self, lease_id: str, term: int, beat: Beat | None, looked_s: float) -> list[Verdict]:
        seen = self._seen.get(lease_id)
        if seen is None or (beat is not None and beat != seen.beat):
            seen = self._seen[lease_id] = _Seen(beat)
        else:
            seen.silent_s += looked_s
        if beat is None:
            seen.unrepeated_s += looked_s
            if seen.unrepeated_s >= REPEAT_INTERVAL_S:
                seen.unrepeated_s = 0.0
                return [Verdict("repeat", lease_id)]
            return []
        if seen.silent_s >= BEATS_MISSING_S:
            return [Verdict("expire", lease_id)]
        return [Verdict("adopt", lease_id, beat[0])] if beat[0] > term else []
