"""How much of something without a bound of its own goes into one message. Pure."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel
from pydantic_core import to_json

M = TypeVar("M", bound=BaseModel)


def fitting(listed: Sequence[M], max_bytes: int) -> tuple[M, ...]:
    """As many from the beginning as take no more than so many bytes of JSON together."""
    left_bytes = max_bytes
    for place, one in enumerate(listed):
        left_bytes -= len(to_json(one)) + 1
        if left_bytes < 0:
            return tuple(listed[:place])
    return tuple(listed)


def shortened(text: str, max_bytes: int) -> str:
    """The text; one that takes more than so many bytes of JSON ends with how many characters are left out."""
    if len(to_json(text)) <= max_bytes:
        return text
    kept = text[:max_bytes]
    while len(to_json(words := f"{kept} [{len(text) - len(kept)} characters more]")) > max_bytes:
        kept = kept[: len(kept) * max_bytes // (len(to_json(words)) + 1)]
    return words
