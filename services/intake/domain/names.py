"""What a client calls its file, made safe to show. The name is a label for people: no path is ever made from it."""

import re
import unicodedata

NAME_MAX_BYTES = 200
ORIGINAL_MAX_CHARS = 1024
EXTENSION_MAX_CHARS = 16
FALLBACK = "sample"

_SEPARATORS = re.compile(r"[/\\]")
_UNSAFE = frozenset("\"'`<>|*?:;&$\\/%{}~!#^")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe_name(raw: bytes) -> str:
    """The last part of the name: printable, without quotes or separators, at most 200 bytes, its extension kept.

    Bytes that are not UTF-8, control and bidirectional characters, and shell or markup characters become `_`.
    """
    text = unicodedata.normalize("NFC", raw.decode("utf-8", errors="replace"))
    last = next((part for part in reversed(_SEPARATORS.split(text)) if part.strip(" .")), "")
    shown = "".join("_" if _is_unsafe(character) else character for character in last).strip(" .")
    if shown.startswith("-"):
        shown = "_" + shown[1:]
    return _shortened(shown) or FALLBACK


def escaped_original(raw: bytes) -> str:
    """The name as it was sent, in printable ASCII with escapes, at most 1024 characters: for the record only."""
    text = raw[:ORIGINAL_MAX_CHARS].decode("utf-8", errors="backslashreplace")
    return text.encode("unicode_escape").decode("ascii")[:ORIGINAL_MAX_CHARS]


def _is_unsafe(character: str) -> bool:
    return character in _UNSAFE or character == "\ufffd" or unicodedata.category(character) in _HIDDEN_CATEGORIES


def _shortened(name: str) -> str:
    if len(name.encode()) <= NAME_MAX_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension) > EXTENSION_MAX_CHARS:
        return _cut(name, NAME_MAX_BYTES)
    tail = f"{dot}{extension}"
    return _cut(stem, NAME_MAX_BYTES - len(tail.encode())) + tail


def _cut(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", errors="ignore").rstrip()
