"""Finds what is encoded in a text, and decodes it: base64, hexadecimal, numbers, and compression inside of them.

What comes out counts where it can be read, or begins like a program or an archive: of other bytes nobody can tell
whether they mean anything.
"""

import base64
import binascii
import bz2
import codecs
import heapq
import itertools
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from malbox.sdk.carried import Carried, carried

from .folding import characters, numbers
from .language import is_readable, text_of
from .script_encoder import encoded_blocks

DECODED_MAX_BYTES = 8 * 1024 * 1024
CANDIDATES_MAX = 60
READABLE_MIN_CHARS = 6
SCRIPT_ENCODER = "Microsoft Script Encoder"
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/_-]{16,}={0,2}")
_BASE64_LINES = re.compile(r"(?:[A-Za-z0-9+/]{60,76}[ \t]*\r?\n){2,}[A-Za-z0-9+/]{1,76}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?((?:[0-9a-fA-F]{2}){12,})(?![0-9A-Za-z])")
_SPACED_HEX = re.compile(r"(?:(?:0x|\\x|%|\s)?[0-9a-fA-F]{2}[,\s]{1,2}){12,}[0-9a-fA-F]{2}")
_ESCAPED = re.compile(r"(?:\\x[0-9a-fA-F]{2}){8,}|(?:%[0-9a-fA-F]{2}){8,}")
_NUMBERS = re.compile(r"\b\d{1,3}(?:\s{0,3},\s{0,3}\d{1,3}){11,}\b")
_XOR = re.compile(r"(?:-bxor|\^|\bxor)\s*\(?\s*(0x[0-9a-f]{1,2}|\d{1,3})\b", re.IGNORECASE)
_ROT13 = re.compile(r"rot_?13['\"]", re.IGNORECASE)
_STRING = re.compile(r"'([^'\r\n]{8,})'|\"([^\"\r\n]{8,})\"")


@dataclass(frozen=True)
class Decoded:
    """What decoded it, and the text, or the bytes of a file and what they begin like."""

    by: str
    text: str = ""
    content: bytes = b""
    file: Carried | None = None
    is_cut: bool = False


def decoded(text: str, passed: Counter[str]) -> Iterator[Decoded]:
    """Everything that is encoded in the text and is of use afterwards.

    `passed` counts, for each encoding, what looks like it and was not decoded because there is too much of it.
    """
    for block in encoded_blocks(text):
        yield Decoded(SCRIPT_ENCODER, block)
    for by, content in _candidates(text, passed):
        yield from _useful(by, content, text)
    if _ROT13.search(text):
        for match in _longest(_STRING, text, "rot13", passed):
            yield Decoded("rot13", codecs.decode(match[1] or match[2], "rot13"))


def _candidates(text: str, passed: Counter[str]) -> Iterator[tuple[str, bytes]]:
    for match in _longest(_BASE64_LINES, text, "base64", passed):
        yield "base64", _base64(re.sub(r"\s", "", match[0]))
    for match in _longest(_BASE64, text, "base64", passed):
        yield "base64", _base64(match[0])
    for match in _longest(_HEX, text, "hexadecimal", passed):
        yield "hexadecimal", binascii.unhexlify(match[1])
    for pattern in (_SPACED_HEX, _ESCAPED):
        for match in _longest(pattern, text, "hexadecimal", passed):
            yield (
                "hexadecimal",
                binascii.unhexlify("".join(re.findall(r"(?<!0)[0-9a-fA-F]{2}", re.sub(r"0x", " ", match[0])))),
            )
    for match in _longest(_NUMBERS, text, "character codes", passed):
        codes = numbers(match[0])
        if max(codes) <= 0xFF:  # noqa: PLR2004 - a byte
            yield "character codes", bytes(codes)
        else:
            yield "character codes", characters(codes).encode()


def _longest(pattern: re.Pattern[str], text: str, by: str, passed: Counter[str]) -> Iterator[re.Match[str]]:
    """The longest of the matches: what hides something is longer than what is only a word. The others are counted."""
    number = itertools.count()
    matches = (match for match, _ in zip(pattern.finditer(text), number, strict=False))
    found = heapq.nlargest(CANDIDATES_MAX, matches, key=lambda match: match.end() - match.start())
    passed[by] += next(number) - len(found)
    yield from found


def _base64(token: str) -> bytes:
    plain = token.rstrip("=").replace("-", "+").replace("_", "/")
    plain = plain[: len(plain) - (len(plain) % 4 == 1)]
    return base64.b64decode(plain + "=" * (-len(plain) % 4))


def _useful(by: str, content: bytes, around: str) -> Iterator[Decoded]:
    unpacked = None if _file(content) else _decompressed(content)
    is_cut = False
    if unpacked is not None:
        how, content = unpacked
        by = f"{by}, {how}"
        is_cut = len(content) >= DECODED_MAX_BYTES
    keys = sorted({int(one, 0) & 0xFF for one in _XOR.findall(around)[:4]} - {0})
    plain = [(by, content), *((f"{by}, xor {key}", _xored(content, key)) for key in keys)]
    for how, one in plain:  # first, for a program is full of zeros, and these may become letters
        file = _file(one)
        if file is not None:
            yield Decoded(how, content=one, file=file, is_cut=is_cut)
            return
    for how, one in plain:
        text = text_of(one)
        if text is not None and len(text) >= READABLE_MIN_CHARS and is_readable(text):
            yield Decoded(how, text, is_cut=is_cut)
            if how == by:
                return


def _xored(content: bytes, key: int) -> bytes:
    return content.translate(bytes(byte ^ key for byte in range(256)))


def _file(content: bytes) -> Carried | None:
    """What the bytes begin like. Two letters are chance among so many candidates: a Windows program has its header."""
    found = carried(content)
    if found is not None and content.startswith(b"MZ"):
        header = int.from_bytes(content[0x3C:0x40], "little")  # e_lfanew
        return found if content[header : header + 4] == b"PE\0\0" else None
    return found


def _decompressed(content: bytes) -> tuple[str, bytes] | None:
    """What the content unpacks to, cut to the bound, if it is compressed."""
    if content.startswith(b"\x1f\x8b"):
        return _inflated("gzip", content, 31)
    if content[:1] == b"\x78" and len(content) > 2 and int.from_bytes(content[:2], "big") % 31 == 0:  # noqa: PLR2004 - RFC 1950
        return _inflated("zlib", content, 15)
    if content.startswith(b"BZh"):
        return _limited("bzip2", bz2.BZ2Decompressor(), content)
    if content.startswith(b"\xfd7zXZ"):
        return _limited("xz", lzma.LZMADecompressor(memlimit=128 * 1024 * 1024), content)
    return _inflated("deflate", content, -15)


def _inflated(name: str, content: bytes, window_bits: int) -> tuple[str, bytes] | None:
    try:
        plain = zlib.decompressobj(window_bits).decompress(content, DECODED_MAX_BYTES)
    except zlib.error:
        return None
    return (name, plain) if len(plain) >= READABLE_MIN_CHARS else None


def _limited(
    name: str, machine: bz2.BZ2Decompressor | lzma.LZMADecompressor, content: bytes
) -> tuple[str, bytes] | None:
    try:
        return name, machine.decompress(content, DECODED_MAX_BYTES)
    except (OSError, EOFError, lzma.LZMAError, ValueError):
        return None
