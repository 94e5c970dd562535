"""Looks for what nobody owns any more: domains, emulators, overlays, sockets of incarnations that are over, networks.

Asked of the kernel, of libvirt and of the file system, not of the services; only whose a machine is comes from them.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deploy.local import processes
from deploy.local.state import State
from services.machines.adapters import qemu_processes
from services.machines.adapters.domain_xml import NAME_PREFIX, ownership
from tests.prove.namespaces import network_orphans

OLD_S = 30.0
_KEPT = frozenset({"fence", "fence.lock", "lock", "warm"})
_LEASED = frozenset({"preparing", "active", "draining"})

Machine = Mapping[str, Any]


def orphans(state: State, connection: Any, machines: Iterable[Machine]) -> list[str]:
    """Everything that is nobody's now. `machines` are as the API shows them."""
    known = {str(machine["machine_id"]): machine for machine in machines}
    return [
        *_domains(connection, known),
        *_emulators(state, known),
        *_files(state, known),
        *_sockets(state, connection),
        *network_orphans((one.pid for one in processes.leftovers(state)), state.network, known),
    ]


def life_epoch(machine: Machine) -> int:
    """The epoch that the machine's incarnation bears: a lease runs on the one that was verified before it."""
    return int(machine["epoch"]) - (machine["state"] in _LEASED)


def _life_of(machine: Machine) -> str:
    """A pattern that the directory of its incarnation bears, under whichever claim it was restored."""
    return rf"life-{life_epoch(machine)}(-[0-9]+-[0-9]+)?"


def _domains(connection: Any, known: Mapping[str, Machine]) -> Iterable[str]:
    for domain in connection.listAllDomains(0):
        name = domain.name()
        if name.startswith(NAME_PREFIX):
            machine = known.get(name.removeprefix(NAME_PREFIX))
            owner = ownership(domain.XMLDesc(0))
            if machine is None or owner != (machine["machine_id"], life_epoch(machine)):
                yield f"domain {name} of {owner}"


def _emulators(state: State, known: Mapping[str, Machine]) -> Iterable[str]:
    for pid in qemu_processes.of_machine(state.machines):
        words = " ".join(qemu_processes.arguments(pid))
        lives = (rf"/{re.escape(name)}/{_life_of(machine)}/" for name, machine in known.items())
        if words and not any(re.search(life, words) for life in lives):
            yield f"emulator {pid}"


def _files(state: State, known: Mapping[str, Machine]) -> Iterable[str]:
    for name, machine in known.items():
        if machine["state"] == "quarantined":
            continue  # whatever lies there is evidence, and the operator's
        for entry in _entries(state.machines / name):
            if entry.name not in _KEPT and not re.fullmatch(_life_of(machine), entry.name):
                yield f"{name}/{entry.name}"


def _sockets(state: State, connection: Any) -> Iterable[str]:
    """Libvirt keeps a directory with the monitor's socket for each domain that runs, named for its number."""
    running = {str(domain.ID()) for domain in connection.listAllDomains(0)}
    for place in _entries(state.libvirt / "config" / "libvirt" / "qemu" / "lib"):
        if place.name.startswith("domain-") and place.name.split("-")[1] not in running:
            yield f"libvirt's {place.name}"


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
