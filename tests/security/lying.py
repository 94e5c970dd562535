"""How a lie of a guest is put, and how the stage that hears it may end."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from contracts.ids import derived
from tests.security.lying_guest import LyingGuest, Said

HONEST = "the truth"
"""The name of the guest that does not lie."""
U64 = 2**64 - 1
U32 = 2**32 - 1
BAD_TEXT = b"\xff\xfe\x80"
STRANGE = "\x1b[2J\x00\u202e\r\nname"
Change = Callable[[LyingGuest], None]


@dataclass(frozen=True)
class Ends:
    """How a stage ends, as a pattern: completed, failed for good, or retryable on another machine; and what it says."""

    how: str
    words: str = ""
    keeps_evidence: bool = False


@dataclass(frozen=True)
class Lie:
    """One way to lie. `change` makes an honest guest a liar."""

    name: str
    ends: Ends
    change: Change
    compression: Any = None

    @property
    def task_id(self) -> str:
        """The task whose guest lies so."""
        return derived("tsk", self.name)

    @property
    def lease_id(self) -> str:
        """Its lease."""
        return derived("lea", self.name)


COMPLETED = Ends("completed", keeps_evidence=True)
UNBELIEVED = Ends("completed", "messages of the guest were not believed", keeps_evidence=True)
UNSEALED = Ends("retryable", "the guest did not complete its record")
LOST = Ends("retryable", "the guest was lost")
LOST_LATE = Ends("retryable", "the guest was lost", keeps_evidence=True)


def failed(words: str, *, keeps_evidence: bool = False) -> Ends:
    """Trying again would change nothing."""
    return Ends("failed", words, keeps_evidence=keeps_evidence)


def refused(words: str) -> Ends:
    """Another machine may do."""
    return Ends("retryable", words)


def replies(name: str, answer: Callable[[LyingGuest, Any], Said]) -> Change:
    """The call is answered so."""
    return lambda guest: guest.replies.__setitem__(name, answer)


def streams(name: str, stream: Callable[[LyingGuest, Any], AsyncIterator[Said]]) -> Change:
    """The call streams so."""
    return lambda guest: guest.streams.__setitem__(name, stream)


def raw_field(number: int, content: bytes) -> bytes:
    """A length-delimited field on the wire."""
    length, size = len(content), b""
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content
