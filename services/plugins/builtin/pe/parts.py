"""What every part of the result is made from."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from malbox.sdk.findings import Findings, printable

NAME_MAX_CHARS = 200


@dataclass(frozen=True)
class Portable:
    """A parsed file, the bytes that were read of it, and how many it has."""

    binary: Any
    content: bytes
    size_bytes: int


Reader = Callable[[Portable, Findings], Any]
"""Reads one part; what is remarkable goes into the findings."""


def name_of(value: str | bytes) -> str:
    """A name for a reader: printable, and no longer than a name needs to be."""
    return printable(value, NAME_MAX_CHARS)


def first(items: Iterable[Any], limit: int, findings: Findings) -> Iterator[Any]:
    """The first `limit` items; that there were more is said."""
    for number, item in enumerate(items):  # never past the end: LIEF's iterators are not made for that
        if number == limit:
            findings.truncated()
            return
        yield item
