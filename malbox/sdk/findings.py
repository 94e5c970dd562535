"""What a static plugin has to say besides its own structure: traits, indicators and problems, each bounded.

`traits` are what the report's signatures judge, by name; `indicators` join the report's own; `problems` say what could
not be read, so that a partial result is never taken for a whole one. All of it comes from hostile bytes.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

TRAITS_MAX = 100
TRAITS_OF_A_NAME_MAX = 10
INDICATORS_MAX = 500
PROBLEMS_MAX = 50
DETAIL_MAX_CHARS = 300
VALUE_MAX_CHARS = 2000
SEARCHED_MAX_CHARS = 4 * 1024 * 1024

_URL = re.compile(
    r"\b(?:https?|ftps?|tftp|ldaps?|wss?|file)://[^\s\x00-\x20\x7f-\x9f\"'<>|;`\\^{}]{3,2000}", re.IGNORECASE
)
_DOMAIN = re.compile(r"(?=.{4,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.)+[a-z][a-z0-9-]{1,62}")
_CLOSERS = ".,!?:)]"


def printable(value: str | bytes, limit_chars: int = DETAIL_MAX_CHARS) -> str:
    """The text on one line for a reader: no control characters, no direction marks, no lone surrogates, bounded."""
    text = value if isinstance(value, str) else value[: 4 * limit_chars].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:limit_chars])


def urls_in(text: str) -> tuple[str, ...]:
    """Every URL that stands in the text, each once, in order, without the punctuation of the sentence around it."""
    found = (match[0].rstrip(_CLOSERS) for match in _URL.finditer(text[:SEARCHED_MAX_CHARS]))
    return tuple(dict.fromkeys(found))


def host_of(url: str) -> tuple[str, str]:
    """The kind and the value of the URL's host: domain, ipv4 or ipv6. Both are empty where there is none."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return "", ""
    try:
        return f"ipv{ip_address(host).version}", host
    except ValueError:
        return ("domain", host) if _DOMAIN.fullmatch(host) else ("", "")


class Findings:
    """Collected while a plugin reads; what is over a bound is dropped and the result says that it was."""

    def __init__(self) -> None:
        self._traits: dict[tuple[str, str], None] = {}
        self._indicators: dict[tuple[str, str], str] = {}
        self._problems: dict[str, None] = {}
        self._is_truncated = False

    @property
    def names(self) -> frozenset[str]:
        """The names of the traits so far."""
        return frozenset(name for name, _ in self._traits)

    def trait(self, name: str, detail: str | bytes) -> None:
        """The sample has this trait; the detail says where it shows."""
        key = (name, printable(detail))
        of_this_name = sum(1 for one, _ in self._traits if one == name)
        if key in self._traits or not self._has_room(len(self._traits), TRAITS_MAX):
            return
        if self._has_room(of_this_name, TRAITS_OF_A_NAME_MAX):
            self._traits[key] = None

    def indicator(self, kind: str, value: str, context: str) -> None:
        """Something to look for elsewhere: url, domain, ipv4, ipv6, email, path, registry or a hash; and its place."""
        key = (kind, printable(value, VALUE_MAX_CHARS))
        if key not in self._indicators and self._has_room(len(self._indicators), INDICATORS_MAX):
            self._indicators[key] = printable(context)

    def urls(self, text: str, context: str) -> None:
        """Every URL of the text is an indicator, and so is its host."""
        for url in urls_in(text):
            self.url(url, context)

    def url(self, url: str, context: str) -> None:
        """The URL is an indicator, and so is its host."""
        self.indicator("url", url, context)
        kind, host = host_of(url)
        if kind:
            self.indicator(kind, host, context)

    def problem(self, words: str) -> None:
        """Something could not be read."""
        if self._has_room(len(self._problems), PROBLEMS_MAX):
            self._problems[printable(words)] = None

    def problems(self, words: Iterable[str]) -> None:
        """Several things could not be read."""
        for one in words:
            self.problem(one)

    def add_to(self, entries: list[Any], limit: int, entry: Any) -> None:
        """The entry is in a list of the plugin's own, unless that is full: then the result says so."""
        if self._has_room(len(entries), limit):
            entries.append(entry)

    def truncated(self) -> None:
        """The plugin itself left something out."""
        self._is_truncated = True

    def as_json(self) -> dict[str, Any]:
        """The keys of a result that the report knows, whatever the plugin."""
        return {
            "traits": [{"name": name, "detail": detail} for name, detail in self._traits],
            "indicators": [
                {"kind": kind, "value": value, "context": context}
                for (kind, value), context in self._indicators.items()
            ],
            "problems": list(self._problems),
            "is_truncated": self._is_truncated,
        }

    def _has_room(self, used: int, limit: int) -> bool:
        if used >= limit:
            self._is_truncated = True
        return used < limit
