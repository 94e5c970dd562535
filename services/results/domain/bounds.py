"""Bounds of what a report reads and shows. What a guest produced is cut to these, and the cut is counted."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import BeforeValidator

INPUT_MAX_BYTES = 16 * 1024 * 1024
LIST_MAX = 50_000
TEXT_MAX_CHARS = 4096
SHORT_MAX_CHARS = 256
ARGV_MAX = 256

PROCESSES_SHOWN_MAX = 1000
TIMELINE_SHOWN_MAX = 2000
FILES_SHOWN_MAX = 1000
PIDS_SHOWN_MAX = 32
PREVIEW_MAX_BYTES = 4096
NETWORK_SHOWN_MAX = 1000
INDICATORS_MAX = 2000
MATCHES_SHOWN_MAX = 500
REASONS_SHOWN_MAX = 500
ROWS_SHOWN_MAX = 200
ERRORS_MAX = 200
LOST_ATTEMPTS_SHOWN_MAX = 16
EVIDENCE_MAX = 10

T = TypeVar("T")


def cut_text(value: object, limit_chars: int) -> object:
    """A string no longer than the limit, its end marked where something was cut; anything else as it came."""
    if isinstance(value, str) and len(value) > limit_chars:
        return value[: limit_chars - 1] + "…"
    return value


def cut(items: Sequence[T], limit: int) -> tuple[tuple[T, ...], int]:
    """The first `limit` items, and how many more there were."""
    return tuple(items[:limit]), max(0, len(items) - limit)


Text = Annotated[str, BeforeValidator(lambda value: cut_text(value, TEXT_MAX_CHARS))]
Short = Annotated[str, BeforeValidator(lambda value: cut_text(value, SHORT_MAX_CHARS))]
