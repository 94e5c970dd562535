"""Processor time that the processes of a bed have used (proc(5): parent is field 4 of stat, times are 14 to 17)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local import nginx, postgres, processes, rabbitmq
from deploy.local.state import SERVICES, State

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SANDBOXES = "plugins' sandboxes (those that were waited for)"
MACHINE = "everything on this machine, the client too"
_PARTS = (*SERVICES, postgres.NAME, rabbitmq.NAME, nginx.NAME)


@dataclass(frozen=True)
class _Used:
    parent: int
    own_s: float
    children_s: float  # those that ended and were waited for


def of_bed(state: State) -> dict[str, float]:
    """Seconds used so far by each part, its children included; what plugins run in sandboxes stands on its own."""
    everything = _all()
    used = {MACHINE: _of_machine()}
    for name in _PARTS:
        identity = processes.started(state, name)
        if identity is None or identity.pid not in everything:
            continue
        own = everything[identity.pid]
        below = own.children_s + sum(
            one.own_s + one.children_s for one in _descendants(everything, identity.pid, depth=8)
        )
        used[name] = own.own_s if name == "plugins" else own.own_s + below
        if name == "plugins":
            used[SANDBOXES] = below
    return used


def spent(before: Mapping[str, float], after: Mapping[str, float], count: int) -> dict[str, float]:
    """Seconds per unit of work, for each part."""
    return {name: max(0.0, seconds - before.get(name, 0.0)) / count for name, seconds in after.items()}


def _of_machine() -> float:
    """Seconds that all processors were busy: the first line of /proc/stat without its idle and waiting columns."""
    column = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
    return sum(int(ticks) for index, ticks in enumerate(column) if index not in (3, 4)) / TICKS_PER_S


def _all() -> dict[int, _Used]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            column = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        own, children = (sum(map(int, column[first : first + 2])) / TICKS_PER_S for first in (11, 13))
        found[int(entry.name)] = _Used(int(column[1]), own, children)
    return found


def _descendants(everything: Mapping[int, _Used], pid: int, *, depth: int) -> list[_Used]:
    children = {number: one for number, one in everything.items() if one.parent == pid} if depth else {}
    return [
        *children.values(),
        *(one for number in children for one in _descendants(everything, number, depth=depth - 1)),
    ]
