"""The runs of printable characters in bytes: ASCII, and UTF-16 as Windows writes it (little-endian, Latin letters)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MIN_CHARS = 6
PIECE_CHARS = 64 * 1024
OVERLAP_CHARS = 4 * 1024

_ASCII = re.compile(rb"[\t\x20-\x7e]{%d,}" % MIN_CHARS)
_UTF16 = re.compile(rb"(?:[\t\x20-\x7e]\0){%d,}" % MIN_CHARS)
_ENCODINGS = (("ascii", _ASCII, 1), ("utf-16", _UTF16, 2))


@dataclass(frozen=True)
class Text:
    """Characters that stand together. `char_bytes`: how far one is from the next in the file."""

    offset: int
    encoding: str
    char_bytes: int
    text: str

    @property
    def end(self) -> int:
        """The offset behind the last character."""
        return self.offset + len(self.text) * self.char_bytes

    def at(self, index: int) -> int:
        """Where in the file the character stands."""
        return self.offset + index * self.char_bytes


@dataclass(frozen=True)
class Piece:
    """A part of a text that is short enough to search. What touches a cut end stands whole in the neighbour."""

    text: Text
    start: int
    characters: str
    is_cut_before: bool
    is_cut_after: bool


def texts(content: bytes) -> Iterator[Text]:
    """Every run of at least `MIN_CHARS` characters: first the ASCII ones, then the others, each in order."""
    for encoding, pattern, char_bytes in _ENCODINGS:
        for match in pattern.finditer(content):
            yield Text(match.start(), encoding, char_bytes, match[0][::char_bytes].decode("ascii"))


def pieces(text: Text) -> Iterator[Piece]:
    """The text in parts that overlap, so that nothing of up to `OVERLAP_CHARS` is lost between two of them."""
    step = PIECE_CHARS - OVERLAP_CHARS
    for start in range(0, max(1, len(text.text) - OVERLAP_CHARS), step):
        end = start + PIECE_CHARS
        yield Piece(text, start, text.text[start:end], start > 0, end < len(text.text))
