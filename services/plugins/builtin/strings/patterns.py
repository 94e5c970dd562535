"""What in a text can be looked for elsewhere. Patterns are linear: the text is the sample's choice.

A hit is a kind, a value and where in the text it stands. Writers of reports make addresses harmless (hxxp, [.]); both
forms are the same indicator.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from . import hosts
from .wallets import WALLET, is_wallet

VERSION_WORDS = re.compile(r"version|assembly", re.IGNORECASE)
LOOK_BACK_CHARS = 24
_URL = re.compile(
    r"(?<![A-Za-z0-9])(?:https?|ftps?|tftp|ldaps?|wss?|stratum\+tcp)://[^\s\"'<>|;`\\^{}]{3,2000}", re.IGNORECASE
)
_DOTTED = re.compile(
    r"(?<![A-Za-z0-9_.@/\\:-])[A-Za-z0-9][A-Za-z0-9-]{0,62}(?:\.[A-Za-z0-9-]{1,63}){1,20}(?![A-Za-z0-9_(\\])"
)
_EMAIL = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@([A-Za-z0-9][A-Za-z0-9.-]{3,252})")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]|-\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]{2,40}(?![\w:.])")
_REGISTRY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:HKEY_[A-Z_]{4,20}|HKLM|HKCU|HKCR|HKU)\\"
    r"|(?:SOFTWARE|SYSTEM)\\(?:Microsoft|CurrentControlSet|Classes|Policies|Wow6432Node)\\)"
    r"[^\"'<>|;,\t]{1,250}",
    re.IGNORECASE,
)
_WINDOWS_PATH = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Za-z]:\\|%[A-Za-z]{2,30}%\\|(?<!\\)\\\\[A-Za-z0-9][A-Za-z0-9._-]{1,60}\\(?!\\))[^\"'<>|*?:;,\t]{2,250}"
)
_UNIX_PATH = re.compile(
    r"(?<![A-Za-z0-9_./-])/(?:tmp|etc|home|root|var|opt|srv|mnt|dev/shm|usr/local|Users|Library)/[\w.@+/-]{1,250}"
)
_MUTEX = re.compile(r"(?<![A-Za-z0-9\\])(?:Global|Local)\\[\w{}.$-]{4,120}")
_CLOSERS = '.,!?:)]"'
_DEFANGED = re.compile(r"hxxp|\[\.\]|\[:\]", re.IGNORECASE)


@dataclass(frozen=True)
class Hit:
    """One thing to look for."""

    kind: str
    value: str
    start: int
    end: int


def search(text: str) -> Iterator[Hit]:
    """Everything of use in the text. Kinds overlap on purpose: the host of a URL is an indicator as well."""
    if _DEFANGED.search(text):
        text = re.sub(r"hxxp", "http", text, flags=re.IGNORECASE).replace("[.]", ".").replace("[:]", ":")
    for needle, finder in _FINDERS:
        if needle in text:
            yield from finder(text)


def _urls(text: str) -> Iterator[Hit]:
    for match in _URL.finditer(text):
        value = match[0].rstrip(_CLOSERS)
        host = _host_of(value)
        if host is not None:
            yield Hit("url", value, match.start(), match.end())
            yield Hit(*host, match.start(), match.end())


def _host_of(url: str) -> tuple[str, str] | None:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return None
    found = hosts.address(name)
    if found is not None:
        return found
    known = hosts.domain(name, is_bare=False)
    return None if known is None else ("domain", known)


def _domains(text: str) -> Iterator[Hit]:
    for match in _DOTTED.finditer(text):
        known = hosts.domain(match[0], is_bare=True)
        if known is not None:
            yield Hit("domain", known, match.start(), match.end())


def _emails(text: str) -> Iterator[Hit]:
    for match in _EMAIL.finditer(text):
        known = hosts.domain(match[1].rstrip(".-"), is_bare=False)
        if known is not None:
            yield Hit("email", f"{match[0].partition('@')[0]}@{known}", match.start(), match.end())


def _ipv4(text: str) -> Iterator[Hit]:
    for match in _IPV4.finditer(text):
        before = text[max(0, match.start() - LOOK_BACK_CHARS) : match.start()]
        found = None if VERSION_WORDS.search(before) else hosts.address(match[0])
        if found is not None:
            yield Hit(*found, match.start(), match.end())


def _ipv6(text: str) -> Iterator[Hit]:
    for match in _IPV6.finditer(text):
        found = hosts.address(match[0])
        if found is not None:
            yield Hit(*found, match.start(), match.end())


def _wallets(text: str) -> Iterator[Hit]:
    return (Hit("wallet", one[0], one.start(), one.end()) for one in WALLET.finditer(text) if is_wallet(one))


def _plain(kind: str, pattern: re.Pattern[str]) -> Callable[[str], Iterator[Hit]]:
    def find(text: str) -> Iterator[Hit]:
        return (Hit(kind, one[0].rstrip(" ."), one.start(), one.end()) for one in pattern.finditer(text))

    return find


_FINDERS: tuple[tuple[str, Callable[[str], Iterator[Hit]]], ...] = (
    ("://", _urls),
    ("@", _emails),
    (".", _ipv4),
    (".", _domains),
    (":", _ipv6),
    ("\\", _plain("registry", _REGISTRY)),
    ("\\", _plain("mutex", _MUTEX)),
    ("\\", _plain("path", _WINDOWS_PATH)),
    ("/", _plain("path", _UNIX_PATH)),
    ("", _wallets),
)
"""A character that each kind cannot be without, so that most texts are not searched for most kinds."""
