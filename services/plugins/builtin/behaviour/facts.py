"""The facts that rules ask about: each call as what it did, with fields of one meaning. Standard library only.

The kinds and their fields are the vocabulary of the files in `rules/`. A call that failed is a fact like one that did
not, with its `error`: what was tried says as much as what was allowed.
"""

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from posixpath import basename

from .network import Address
from .strace import Call, descriptor_of, strings_in

Fields = dict[str, str | int | bool]

VOCABULARY: Mapping[str, Mapping[str, type]] = {
    "exec": {
        "path": str,
        "name": str,
        "command": str,
        "environment": str,
        "parent": str,
        "error": str,
        "is_first": bool,
    },
    "process": {"parent": str},
    "file": {
        "action": str,
        "path": str,
        "name": str,
        "source": str,
        "error": str,
        "program": str,
        "is_sample": bool,
        "is_emptied": bool,
        "adds_extension": bool,
        "mode": int,
        "age_s": int,
    },
    "connect": {
        "family": str,
        "protocol": str,
        "address": str,
        "path": str,
        "scope": str,
        "error": str,
        "program": str,
        "port": int,
    },
    "dns": {"query": str, "address": str, "scope": str, "protocol": str, "port": int},
    "bind": {"family": str, "address": str, "scope": str, "port": int, "error": str},
    "redirect": {"to": int, "source": str},
    "sleep": {"seconds": int},
    "call": {"name": str, "detail": str, "error": str},
}
"""Kind of fact -> its fields.

`program` is what the process ran when it did it, `parent` what ran before. `scope` is `this`, `private` or `global`.
"""

READERS = frozenset({"dup2", "dup3", "nanosleep", "clock_nanosleep"})
"""Calls that are read for the rules only, and by themselves."""
DATED = {"utimensat": (1, 2), "utimes": (0, 1), "utime": (0, 1), "futimesat": (1, 2)}
"""Call that dates a file -> the places of the path and of the times."""
COMMAND_MAX_CHARS = 8000
STANDARD_STREAMS = ("0", "1", "2")

_MODE = re.compile(r"^0[0-7]{1,6}$")
_SECONDS = re.compile(r"tv_sec=(\d{1,12})")
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=@?"((?:[^"\\]|\\.){1,108})"')


def exec_fields(path: str, argv: list[str], call: Call, *, parent: str, is_first: bool) -> Fields:
    """A program was started, or was to be."""
    environment = " ".join(part.decode("utf-8", "replace") for part in strings_in(call.argument(_environment_at(call))))
    return {
        "path": path,
        "name": basename(path),
        "command": " ".join(argv)[:COMMAND_MAX_CHARS],
        "environment": environment[:COMMAND_MAX_CHARS],
        "parent": parent,
        "error": call.error,
        "is_first": is_first,
    }


def file_fields(path: str, action: str, call: Call, *, program: str) -> Fields:
    """Something was done to a file, or tried."""
    fields: Fields = {
        "action": action,
        "path": path,
        "name": basename(path),
        "error": call.error,
        "program": program,
        "is_emptied": action == "written" and ("O_TRUNC" in "".join(call.arguments) or "truncate" in call.name),
    }
    mode = mode_of(call) if action in ("chmod", "created") else None
    return fields if mode is None else {**fields, "mode": mode}


def mode_of(call: Call) -> int | None:
    """The permissions that a call gives a file: the last argument that is written like some."""
    found = [argument for argument in call.arguments if _MODE.match(argument)]
    return int(found[-1], 8) if found else None


def age_s(call: Call) -> int | None:
    """How far in the past the time lies that a call gives a file; None: it is the present, or not told."""
    times = _SECONDS.findall(call.argument(DATED[call.name][1])) if call.name in DATED else []
    return max(0, int(call.at) - int(times[-1])) if times else None


def unix_fields(call: Call, program: str) -> Fields | None:
    """A connection to a socket that has a name in the file system."""
    found = _UNIX.search(", ".join(call.arguments[1:]))
    if found is None:
        return None
    return {"family": "unix", "path": found[1], "scope": "this", "error": call.error, "program": program}


def address_fields(address: Address) -> Fields:
    """Whom a call named."""
    return {
        "family": address.family,
        "address": address.address,
        "port": address.port,
        "scope": scope_of(address.address),
    }


def scope_of(address: str) -> str:
    """How far away it is."""
    try:
        known = ip_address(address)
    except ValueError:
        return ""
    known = getattr(known, "ipv4_mapped", None) or known
    if known.is_loopback or known.is_unspecified:
        return "this"
    return "private" if known.is_private and not _is_for_documents(address) else "global"


def of_call(call: Call) -> Iterator[tuple[str, Fields]]:
    """The facts that stand in a call alone."""
    match call.name:
        case "dup2" | "dup3":
            yield from _redirected(call)
        case "nanosleep" | "clock_nanosleep":
            yield from _slept(call)


def named(call: Call, detail: str) -> Fields:
    """A call that says enough by its name and its arguments."""
    return {"name": call.name, "detail": detail, "error": call.error}


def _redirected(call: Call) -> Iterator[tuple[str, Fields]]:
    """A standard stream became something else. What strace shows of the new descriptor was there before the call."""
    to = call.argument(1).partition("<")[0]
    if to in STANDARD_STREAMS and not call.error:
        what = descriptor_of(call.argument(0))
        kind = what.partition(":")[0] if ":[" in what else "file"
        is_socket = kind.startswith(("TCP", "UDP", "socket", "UNIX"))
        source = ("unix" if kind.startswith("UNIX") else "socket") if is_socket else kind
        yield "redirect", {"to": int(to), "source": source}


def _slept(call: Call) -> Iterator[tuple[str, Fields]]:
    is_absolute = "TIMER_ABSTIME" in call.argument(1)
    seconds = _SECONDS.search(call.argument(0 if call.name == "nanosleep" else 2))
    if seconds is not None and not is_absolute:
        yield "sleep", {"seconds": int(seconds[1])}


def _environment_at(call: Call) -> int:
    return 2 if call.name == "execve" else 3


def _is_for_documents(address: str) -> bool:
    """Addresses that stand for any other in documents and tests (RFC 5737, RFC 3849)."""
    return address.startswith(("192.0.2.", "198.51.100.", "203.0.113.", "2001:db8:"))
