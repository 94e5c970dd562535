"""When watching a sample ends, and by which rule. Pure: instants are seconds on one monotonic clock, passed in."""

from dataclasses import dataclass

from contracts.planning import EndedBy

SETTLE_S = 1.0
HEARTBEAT_MISSING_S = 10.0
COLLECTION_MARGIN_S = 30.0


@dataclass(frozen=True)
class Observation:
    """What is known of a watch that goes on.

    `hard_at` is the lease's end less the time that collecting takes; a keep-alive extends the window up to there.
    """

    started_at: float
    window_s: float
    hard_at: float
    heartbeat_at: float
    tree_empty_at: float | None = None
    is_enforced: bool = False
    is_kept_alive: bool = False
    is_cancelled: bool = False


def ended_by(observation: Observation, now: float) -> EndedBy | None:
    """The rule that ends the watch at this instant, or None when it goes on. The first that holds wins."""
    may_end = not observation.is_kept_alive
    rules: tuple[tuple[EndedBy, bool], ...] = (
        ("cancelled", observation.is_cancelled),
        ("guest_lost", now >= observation.heartbeat_at + HEARTBEAT_MISSING_S),
        ("timeout", now >= observation.hard_at),
        ("window", may_end and now >= observation.started_at + observation.window_s),
        ("sample_exit", may_end and _has_settled(observation, now)),
    )
    return next((name for name, holds in rules if holds), None)


def next_look_at(observation: Observation) -> float:
    """The earliest instant at which the answer may change by time alone."""
    instants = [observation.heartbeat_at + HEARTBEAT_MISSING_S, observation.hard_at]
    if not observation.is_kept_alive:
        instants.append(observation.started_at + observation.window_s)
        if observation.tree_empty_at is not None and not observation.is_enforced:
            instants.append(observation.tree_empty_at + SETTLE_S)
    return min(instants)


def _has_settled(observation: Observation, now: float) -> bool:
    if observation.is_enforced or observation.tree_empty_at is None:
        return False
    return now >= observation.tree_empty_at + SETTLE_S
