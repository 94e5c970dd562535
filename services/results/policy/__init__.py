"""What the evidence means: pure functions of data."""

from services.results.policy.traits import TRAITS, Trait
from services.results.policy.verdict import Judgement, Matched, Noticed, Observed, judge

__all__ = [
    "TRAITS",
    "Judgement",
    "Matched",
    "Noticed",
    "Observed",
    "Trait",
    "judge",
]
