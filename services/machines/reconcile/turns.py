"""Who is dealt with in a pass when not everybody can be."""

from collections.abc import Iterable


class Turns:
    """Names in alphabetical order, round and round: what can never be settled keeps nobody else waiting."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._last = ""

    def take(self, names: Iterable[str]) -> list[str]:
        """At most `at_once` of the names, beginning behind the last that was taken; all when they are no more."""
        ordered = sorted(names)
        behind = [name for name in ordered if name > self._last]
        taken = (behind + ordered[: len(ordered) - len(behind)])[: self._at_once]
        self._last = taken[-1] if taken else self._last
        return taken
