"""What the plugins for executables share: a file read in part, parts of the result read one by one, names and bounds.

Each part is read by itself: what is damaged in one is a problem of the result and costs the others nothing.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from malbox.sdk.carried import Carried, carried
from malbox.sdk.children import Children
from malbox.sdk.entropy import MEASURED_MAX_BYTES, entropy_bits
from malbox.sdk.findings import Findings, printable

MIB = 1024 * 1024
READ_MAX_BYTES = 128 * MIB  # files are blown up to pass by scanners; what matters stands at the beginning
NAME_MAX_CHARS = 200


@dataclass(frozen=True)
class Executable:
    """A parsed file, the bytes that were read of it, how many it has, and what is found in it."""

    binary: Any
    content: bytes
    size_bytes: int
    findings: Findings = field(default_factory=Findings)
    children: Children = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "children", Children(self.findings))

    def carries(self, place: str, content: bytes, size_bytes: int) -> Carried | None:
        """What this part of the file is, if it is a file of its own; that is a child, if all of it was read."""
        found = carried(content)
        if found is None:
            return None
        if found.is_program:
            self.findings.trait("carries_a_program", f"{place} begins like a {found.words}")
        if len(content) == size_bytes:
            self.children.add(f"{place}.{found.suffix}", "executable", content[found.offset :])
        return found


Reader = Callable[[Executable, Findings], dict[str, Any]]
"""Reads some keys of the result; what is remarkable goes into the findings."""


def keyed(key: str, read: Callable[[Executable, Findings], Any]) -> Reader:
    """A reader of one key out of a function of its value."""

    def reader(executable: Executable, findings: Findings) -> dict[str, Any]:
        return {key: read(executable, findings)}

    reader.__name__ = key
    return reader


def beginning(path: Path) -> bytes:
    """The bytes of the file, up to the limit. Raises OSError."""
    with path.open("rb") as stream:
        return stream.read(READ_MAX_BYTES)


def described(executable: Executable, parts: Iterable[Reader]) -> dict[str, Any]:
    """The result of all parts, and what was found on the way."""
    findings = executable.findings
    said: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # LIEF's, of numbers that it has no name for
        for read in parts:
            try:
                said |= read(executable, findings)
            except Exception as error:  # noqa: BLE001 - whatever a library meets damaged data with
                findings.problem(f"{read.__name__}: {type(error).__name__}: {error}")
    if executable.size_bytes > len(executable.content):
        findings.problem(f"only the first {len(executable.content)} bytes were read")
        findings.truncated()
    return {**findings.as_json(), **said}


def name_of(value: str | bytes) -> str:
    """A name for a reader: printable, and no longer than a name needs to be."""
    return printable(value, NAME_MAX_CHARS)


def word_for(number: Any) -> str:
    """The word for a number of a list that a format knows, or the number: LIEF has bare ones for those not listed."""
    return str(getattr(number, "name", number))


def first(items: Iterable[Any], limit: int, findings: Findings) -> Iterator[Any]:
    """The first `limit` items; that there were more is said."""
    for number, item in enumerate(items):  # never past the end: LIEF's iterators are not made for that
        if number == limit:
            findings.truncated()
            return
        yield item


def entropy_at(content: bytes, offset: int, size: int) -> float:
    """The entropy of a part, over no more than what is measured: hundreds of parts may each claim the whole file."""
    return entropy_bits(content[offset : offset + min(size, MEASURED_MAX_BYTES)])
