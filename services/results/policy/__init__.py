"""What the evidence means: pure functions of data."""

from services.results.policy.conditions import Condition, Finding
from services.results.policy.signatures import SIGNATURES, Signature
from services.results.policy.traits import TRAITS, Trait
from services.results.policy.verdict import Judgement, Matched, Noticed, Observed, judge

__all__ = [
    "SIGNATURES",
    "TRAITS",
    "Condition",
    "Finding",
    "Judgement",
    "Matched",
    "Noticed",
    "Observed",
    "Signature",
    "Trait",
    "judge",
]
