"""What the result is made of, and its bounds. Standard library only.

The whole result stays below 16 MiB: lists are counted, texts are cut, and all texts together have a budget.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

PROCESSES_MAX = 2000
FILES_MAX = 5000
NETWORK_MAX = 2000
TIMELINE_MAX = 5000
ARGV_MAX = 64
PIDS_MAX = 32
TEXT_MAX_CHARS = 1024
BUDGET_CHARS = 1_500_000


@dataclass
class ProcessRecord:
    """One process."""

    pid: int
    ppid: int | None
    started_at_s: float
    argv: list[str] = field(default_factory=list)
    exe: str | None = None
    ended_at_s: float | None = None
    exit_code: int | None = None
    signal: str | None = None


@dataclass
class FileRecord:
    """One path, what was done to it or tried, by whom, and which errors that met."""

    path: str
    actions: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class NetworkRecord:
    """One kind of attempt; `count` says how often it was made."""

    at_s: float
    pid: int
    family: str
    protocol: str | None
    address: str
    port: int
    query: str | None
    outcome: str
    count: int = 1


@dataclass(frozen=True)
class EventRecord:
    """One line of the timeline."""

    at_s: float
    pid: int
    event: str
    detail: str


def shown(raw: bytes) -> str:
    """Bytes as text of printable characters, cut to the bound."""
    return _printable(_decoded(raw))


def _decoded(raw: bytes) -> str:
    return raw[: 4 * TEXT_MAX_CHARS].decode("utf-8", "backslashreplace")


def _printable(decoded: str) -> str:
    kept = decoded[:TEXT_MAX_CHARS]
    if kept.isprintable():
        return kept
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in kept)


class Budget:
    """Cuts texts, and says no when all of them together are too long."""

    def __init__(self, chars: int = BUDGET_CHARS) -> None:
        self._left = chars
        self.is_truncated = False

    def text(self, raw: bytes) -> str:
        """Bytes as text of printable characters, cut to the bound and to what is left."""
        decoded = _decoded(raw)
        whole = _printable(decoded)
        kept = whole[: max(0, min(TEXT_MAX_CHARS, self._left))]
        self.is_truncated |= len(kept) < len(whole) or len(decoded) > TEXT_MAX_CHARS
        self._left -= len(kept)
        return kept

    def has_room(self, count: int, limit: int) -> bool:
        """Whether one more fits into a list."""
        fits = count < limit and self._left > 0
        self.is_truncated |= not fits
        return fits


def as_json(record: ProcessRecord | FileRecord | NetworkRecord | EventRecord) -> dict[str, Any]:
    """The record as a JSON object."""
    return asdict(record)
