"""Whether bytes are text in UTF-16, in which PowerShell takes its commands and Windows writes its scripts."""

import codecs

MIN_BYTES = 8  # fewer bytes say nothing
ZEROS_MIN = 0.7
"""The share of zeros among the upper bytes, where no mark says that it is UTF-16: what is no Latin letter has none."""


def wide_encoding(head: bytes) -> str | None:
    """`utf-16-le` or `utf-16-be`, by the mark or by the zeros of the bytes given; None: neither."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    if len(head) < MIN_BYTES:
        return None
    even, odd = head[::2], head[1::2]
    for encoding, upper, lower in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if upper.count(0) >= ZEROS_MIN * len(upper) and not lower.count(0):
            return encoding
    return None
