"""What every part of the result is made from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from malbox.sdk.findings import Findings, printable

NAME_MAX_CHARS = 200


@dataclass(frozen=True)
class Executable:
    """A parsed file, the bytes that were read of it, and how many it has."""

    binary: Any
    content: bytes
    size_bytes: int


class Reader(Protocol):
    """Reads some keys of the result; what is remarkable goes into the findings."""

    __name__: str

    def __call__(self, executable: Executable, findings: Findings) -> dict[str, Any]:
        """The keys."""


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
