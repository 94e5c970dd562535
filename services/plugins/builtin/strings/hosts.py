"""Tells names of hosts from everything else that has dots in it: files, versions, identifiers of programs."""

from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from publicsuffixlist import PublicSuffixList

LABEL_MAX_CHARS = 63
NAME_MAX_CHARS = 253
IPV6_GROUPS_MIN = 3  # C++ names such as abc::def read like addresses of two groups
BARE_SUFFIXES = frozenset(
    {
        *(
            "com",
            "net",
            "org",
            "info",
            "biz",
            "edu",
            "gov",
            "mil",
            "int",
            "onion",
            "top",
            "xyz",
            "club",
            "site",
            "online",
        ),
        *(
            "website",
            "space",
            "store",
            "shop",
            "icu",
            "vip",
            "ru",
            "su",
            "cn",
            "ua",
            "by",
            "kz",
            "ir",
            "kp",
            "kr",
            "jp",
        ),
        *("tw", "vn", "br", "mx", "de", "uk", "fr", "nl", "be", "it", "es", "pt", "ch", "at", "cz", "hu", "ro", "bg"),
        *("se", "fi", "no", "dk", "eu", "us", "ca", "au"),
    }
)
"""Suffixes that a name may have with nothing around it. Others end identifiers and files more often than hosts, such as
io.open, cursor.id and libc.so. Those count where a scheme or an @ stands before them.
"""

_EVERYWHERE = frozenset({"localhost.localdomain", "schemas.microsoft.com", "schemas.xmlsoap.org", "www.w3.org"})
"""Names that stand in nearly every program of some kind and are contacted by none."""


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False)


def domain(name: str, *, is_bare: bool) -> str | None:
    """The name as it is looked up, or None. `is_bare`: nothing around it, such as a scheme, says that it is a host."""
    lower = name.rstrip(".").lower()
    labels = lower.split(".")
    if len(labels) < 2 or len(lower) > NAME_MAX_CHARS or lower in _EVERYWHERE:  # noqa: PLR2004 - a name and a suffix
        return None
    if not all(_is_label(label) for label in labels) or labels[-1].isdigit():
        return None
    if is_bare and not _is_likely(name, labels):
        return None
    return lower if _suffixes().privatesuffix(lower) else None


def address(text: str) -> tuple[str, str] | None:
    """Kind and value of an address that is another host's, or None."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if found.is_unspecified or found.is_loopback or found.is_multicast or found.is_link_local:
        return None
    if isinstance(found, IPv4Address):
        return ("ipv4", str(found)) if _is_host(found) else None
    return ("ipv6", str(found)) if _is_written_out(found, text) else None


def _is_label(label: str) -> bool:
    return 0 < len(label) <= LABEL_MAX_CHARS and label[0] != "-" and label[-1] != "-"


def _is_likely(name: str, labels: list[str]) -> bool:
    """Without anything around it: written in one case, and ending like hosts do."""
    return name in (name.lower(), name.upper()) and (labels[-1] in BARE_SUFFIXES or labels[0] == "www")


def _is_host(found: IPv4Address) -> bool:
    """Not a version number: those end in zero, or begin with it. 240.0.0.0 and more is nobody's."""
    first, last = found.packed[0], found.packed[3]
    return 0 < first < 240 and last not in (0, 255)  # noqa: PLR2004 - RFC 1112, class E


def _is_written_out(found: IPv6Address, text: str) -> bool:
    groups = [group for group in text.split(":") if group]
    return len(groups) >= IPV6_GROUPS_MIN and any(c.isdigit() for c in text) and not found.is_reserved


_suffixes()  # thousands of rules, parsed once before there is a sample: every run finds them
