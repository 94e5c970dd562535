"""Which errors of a stage are told in the message that ends it, so that it stays one message. Pure."""

from collections.abc import Sequence

from contracts.fitting import fitting
from contracts.plugins import RunError

REASON_MAX_CHARS = 400
TOLD_MAX_BYTES = 24 * 1024
"""Beside the ids of 800 results this leaves room for the envelope in 64 KiB, whatever a reason is made of."""


def errors_told(errors: Sequence[RunError]) -> tuple[RunError, ...]:
    """As many as fit, in their order, with short reasons; how many more there are is an error of its own."""
    short = [error.model_copy(update={"reason": error.reason[:REASON_MAX_CHARS]}) for error in errors]
    told = fitting(short, TOLD_MAX_BYTES)
    if len(told) == len(errors):
        return told
    words = f"{len(errors) - len(told)} more errors of this stage: malbox plugin log TASK lists every run"
    return (*told, RunError(plugin=None, stage=errors[len(told)].stage, outcome="failed", reason=words))
