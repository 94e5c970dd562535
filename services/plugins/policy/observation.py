"""When watching a sample ends, and by which rule. Pure: instants are seconds on one monotonic clock, passed in.

The first of: the hard timeout; the window (the user's timeout); the whole tree gone and a settle time passed, unless
the full window is asked for. Never while a plugin holds a keep-alive, which reaches no further than the hard timeout.
"""

from dataclasses import dataclass

from contracts.planning import EndedBy

SETTLE_S = 1.0
HEARTBEAT_MISSING_S = 20.0


@dataclass(frozen=True)
class Observation:
    """What is known of a watch that goes on.

    `hard_at` is the hard timeout. `released_at` is when the last plugin let go that kept the watch alive.
    """

    started_at: float
    window_s: float
    hard_at: float
    heartbeat_at: float
    tree_empty_at: float | None = None
    is_enforced: bool = False
    is_kept_alive: bool = False
    released_at: float | None = None
    is_cancelled: bool = False

    @property
    def window_ends_at(self) -> float:
        """When the user's timeout is over."""
        return self.started_at + self.window_s

    @property
    def is_extended(self) -> bool:
        """Whether a plugin kept the watch alive beyond the window, and let go."""
        return self.released_at is not None and self.released_at > self.window_ends_at


def hard_at(*, started_at: float, window_s: float, grace_s: float, lease_ends_at: float, collection_s: float) -> float:
    """The hard timeout: window and grace, and always early enough to collect before the lease ends."""
    return min(started_at + window_s + grace_s, lease_ends_at - collection_s)


def ended_by(observation: Observation, now: float) -> EndedBy | None:
    """The rule that ends the watch at this instant, or None when it goes on. The first that holds wins."""
    may_end = not observation.is_kept_alive
    is_over = may_end and now >= observation.window_ends_at
    rules: tuple[tuple[EndedBy, bool], ...] = (
        ("cancelled", observation.is_cancelled),
        ("guest_lost", now >= observation.heartbeat_at + HEARTBEAT_MISSING_S),
        ("timeout", now >= observation.hard_at),
        ("plugin", is_over and observation.is_extended),
        ("window", is_over),
        ("sample_exit", may_end and _has_settled(observation, now)),
    )
    return next((name for name, holds in rules if holds), None)


def next_look_at(observation: Observation) -> float:
    """The earliest instant at which the answer may change by time alone."""
    instants = [observation.heartbeat_at + HEARTBEAT_MISSING_S, observation.hard_at]
    if not observation.is_kept_alive:
        instants.append(observation.window_ends_at)
        if observation.tree_empty_at is not None and not observation.is_enforced:
            instants.append(observation.tree_empty_at + SETTLE_S)
    return min(instants)


def _has_settled(observation: Observation, now: float) -> bool:
    if observation.is_enforced or observation.tree_empty_at is None:
        return False
    return now >= observation.tree_empty_at + SETTLE_S
