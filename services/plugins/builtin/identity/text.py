"""Text in the encodings that scripts of Windows come in beside UTF-8: UTF-16 and one byte for each character."""

from malbox.sdk.wide_text import wide_encoding

PROBE_BYTES = 8 * 1024
READABLE_MIN = 0.9
ASCII_MIN = 0.7
"""The share of ASCII in a text with letters of a code page; in packed bytes it is a half."""

_CONTROLS = bytes(code for code in range(0x20) if code not in b"\t\n\f\r") + b"\x7f"


def from_wide(head: bytes) -> bytes | None:
    """UTF-16 text, with or without a mark, as UTF-8 without one; None: it is none."""
    probe = head[: PROBE_BYTES & ~1]
    probe = probe[: len(probe) & ~1]
    encoding = wide_encoding(probe)
    if encoding is None:
        return None
    text = probe.decode(encoding, "replace").removeprefix("\ufeff")
    readable = sum(1 for char in text if char.isprintable() or char in "\t\r\n\f")
    return text.encode() if text and readable >= READABLE_MIN * len(text) else None


def is_of_single_bytes(head: bytes) -> bool:
    """Whether this is text of a code page, such as Latin-1: nearly all ASCII, and no control character in it."""
    probe = head[:PROBE_BYTES]
    if probe.translate(None, delete=_CONTROLS) != probe:
        return False
    return sum(1 for byte in probe if byte < 0x80) >= ASCII_MIN * len(probe)  # noqa: PLR2004 - ASCII ends there
