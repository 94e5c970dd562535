"""Choices as pure functions of data: which work follows, how long it may take, what an observation means."""

from services.machines.policy.beats import Observer, Verdict
from services.machines.policy.judgement import Finding, Picture, Standing, judge
from services.machines.policy.work import (
    BEATS_MISSING_S,
    EVIDENCE_MAX_AGE_S,
    LEASE_MAX_S,
    SELF_CURE_DELAYS_S,
    STATE_MAX_S,
    WORK_MISSING_S,
    WORK_OF_STATE,
    calls_for_work,
    is_late,
    on_host,
    self_cure_delay_s,
    work_for,
)

__all__ = [
    "BEATS_MISSING_S",
    "EVIDENCE_MAX_AGE_S",
    "LEASE_MAX_S",
    "SELF_CURE_DELAYS_S",
    "STATE_MAX_S",
    "WORK_MISSING_S",
    "WORK_OF_STATE",
    "Finding",
    "Observer",
    "Picture",
    "Standing",
    "Verdict",
    "calls_for_work",
    "is_late",
    "judge",
    "on_host",
    "self_cure_delay_s",
    "work_for",
]
