"""What the evidence means: pure functions of data."""

from services.results.policy.conditions import Condition, Finding
from services.results.policy.signatures import SIGNATURES, Signature
from services.results.policy.verdict import Judgement, Matched, Observed, judge

__all__ = [
    "SIGNATURES",
    "Condition",
    "Finding",
    "Judgement",
    "Matched",
    "Observed",
    "Signature",
    "judge",
]
