"""Looks for what is left of analysis networks: namespaces, links and files of networks that no machine has now.

Asked of the kernel: which namespaces the processes of a run are in or hold, and which links are in those.
"""

import os
import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.machines.network.layout import CARD, LINK_PREFIX, OUTSIDE, UPLINK, socket_name
from services.machines.network.namespace import in_namespace
from services.machines.network.words import NetworkFault
from tests.security.network.processes import open_files, text_of, words

_HELPER, _CABLE = b"services.machines.network", b"services.machines.network.cable"
_UNPLUGGED = frozenset({"registered", "quarantined", "maintenance", "retired"})
_OF_OURS = re.compile(rf"{CARD}|{UPLINK}|{OUTSIDE}|{LINK_PREFIX}[0-9]+")
_INODE = 6  # of a line of /proc/net/unix (proc(5))


def network_orphans(run: Iterable[int], directory: Path, machines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Everything of that kind. `run` are the processes of an installation, `directory` is its network helper's.

    `machines` are as the API shows them, by their names.
    """
    plugged = {name: machine for name, machine in machines.items() if machine["state"] not in _UNPLUGGED}
    yield from (f"link {link} outside of any network" for link in _links("/proc/self/ns/net") if _OF_OURS.match(link))
    seen: Counter[str] = Counter()
    for place, pids in _namespaces(run).items():
        links = set(_links(place))
        if OUTSIDE in links or not links:  # the way out is the installation's; or it went while it was looked at
            continue
        owner = next((name for pid in pids if (name := machine_of_cable(pid, machines))), "nobody")
        seen[owner] += 1
        if owner not in plugged or seen[owner] > 1:
            yield f"network namespace of {owner}"
        yield from (f"link {link} in the network of {owner}" for link in sorted(links - _links_of(plugged.get(owner))))
    stems = {Path(socket_name(name)).stem for name in plugged}
    for file in sorted((*directory.glob("*.sock"), *directory.glob("*.pcap"))):
        if file.stem not in stems:
            yield f"the helper's {file.name}"


def machine_of_cable(pid: int, machines: Iterable[str]) -> str | None:
    """Which of the machines the process carries the frames of; None when it is no cable, or another machine's."""
    if _CABLE not in words(pid).split(b"\0"):
        return None
    held, names = open_files(pid), {socket_name(name): name for name in machines}
    parent = text_of(Path(f"/proc/{pid}/status")).partition("PPid:")[2].split()[:1]
    bound = text_of(Path(f"/proc/{''.join(parent) or 'self'}/net/unix"))  # it listens where it was started from
    for fields in map(str.split, bound.splitlines()):
        if f"socket:[{fields[_INODE]}]" in held and (name := names.get(Path(fields[-1]).name)):
            return name
    return None


def _links_of(machine: Mapping[str, Any] | None) -> set[str]:
    more = {UPLINK} if machine is not None and "internet" in machine["routes"] else set()
    return {"lo", CARD} | more


def _namespaces(run: Iterable[int]) -> dict[str, list[int]]:
    """Every namespace that is in use or held, but for those of helpers: a path to it, and the processes inside."""
    inside: dict[str, list[int]] = {}
    places: dict[str, str] = {}
    homes = {_target("/proc/self/ns/net"), ""}
    for pid in run:
        name = _target(f"/proc/{pid}/ns/net")
        inside.setdefault(name, []).append(pid)
        places.setdefault(name, f"/proc/{pid}/ns/net")
        if _HELPER in words(pid).split(b"\0"):
            homes.add(name)
            places = {**_held(pid), **places}
    return {place: inside.get(name, []) for name, place in places.items() if name not in homes}


def _held(pid: int) -> dict[str, str]:
    """The namespaces that a process has open, each with a path to it."""
    with suppress(OSError):
        entries = [str(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        return {name: entry for entry in entries if (name := _target(entry)).startswith("net:")}
    return {}


def _links(place: str) -> list[str]:
    """The names of the namespace's interfaces; none once it is gone."""
    with suppress(OSError, NetworkFault):
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return [name for _, name in in_namespace(descriptor, socket.if_nameindex)]
        finally:
            os.close(descriptor)
    return []


def _target(link: str) -> str:
    with suppress(OSError):
        return str(Path(link).readlink())
    return ""
