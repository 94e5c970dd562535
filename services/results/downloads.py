"""What a download answers: which bytes, under which name, with which headers. Pure.

Ranges as RFC 9110 section 14 (one range; several are answered whole, which it allows), names as RFC 6266 and RFC 8187.
"""

import re
import unicodedata
from dataclasses import dataclass
from posixpath import basename
from urllib.parse import quote

from services.results.domain.result import Result

NAME_MAX_CHARS = 120
DIGITS_MAX = 18
_RANGE = re.compile(rf"^bytes=(\d{{0,{DIGITS_MAX}}})-(\d{{0,{DIGITS_MAX}}})$")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+@=-]")


@dataclass(frozen=True)
class Span:
    """Bytes from `start` up to `end`, exclusive."""

    start: int
    end: int


class RangeNotSatisfiable(ValueError):
    """The range lies outside of the bytes."""


def span_of(header: str | None, size_bytes: int) -> Span | None:
    """The range asked for; None: all of it, also for what is no single byte range. Raises RangeNotSatisfiable."""
    match = _RANGE.match(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(size_bytes, int(last) + 1) if last else size_bytes
        if last and int(last) < int(first):
            return None
    if start >= size_bytes or start >= end:
        raise RangeNotSatisfiable
    return Span(start, end)


def etag(sha256: str) -> str:
    """The entity tag of bytes with that hash."""
    return f'"{sha256}"'


def has_same_bytes(if_none_match: str | None, sha256: str) -> bool:
    """Whether the caller holds the bytes already."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag(sha256) in tags


def safe_name(result: Result) -> str:
    """A name for the file that means nothing to a shell, a browser or a file system; never empty."""
    original = basename(result.path) if result.path else result.name
    visible = "".join(c if unicodedata.category(c)[0] in "LNPS" else "_" for c in original)
    name = re.sub(r"[/\\:*?\"<>|%;]", "_", visible).lstrip(".").strip()[-NAME_MAX_CHARS:]
    return name or result.result_id


def disposition(name: str) -> str:
    """The header that makes every browser save instead of show."""
    plain = _UNSAFE.sub("_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def headers(result: Result) -> dict[str, str]:
    """Headers of every answer that carries, or stands for, the bytes of a result."""
    return {
        "ETag": etag(result.sha256),
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(safe_name(result)),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "private, no-cache",
    }
