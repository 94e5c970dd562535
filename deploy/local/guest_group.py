"""The control group of an installation's guests: what all of them together may use up of the host.

The libvirt daemon is started in it, and every emulator inherits it. The kernel has two kinds (cgroups(7)): one tree for
all controllers (v2), or a tree for each (v1). The group is made below that of whoever starts the daemon, so that what
holds for the one holds for the other; where none can be made, that is said, and guests run without.
"""

import contextlib
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from deploy.local import join
from deploy.local.state import State, group_ids_of, ids_of, write_private

MEMORY_DEFAULT_MIB = 1024
"""Of a machine whose profile does not say."""
OVERHEAD_MIB = 512
"""What an emulator takes beside its guest's memory, translated code above all; and what the daemon takes."""
RESERVE_MIN_MIB = 2048
RESERVE_SHARE = 4
"""The services, their stores and the host keep a quarter of its memory, and at least so much."""
PROCESSES_OF_DAEMON = 256
PROCESSES_OF_GUEST = 128
"""Threads count: processors, up to 64 for the disk, and those of the emulator itself."""
CPU_SHARE = 4
"""All guests together have a quarter of the weight that one service has."""
FILE_MAX_BYTES = 4 << 20
REMOVAL_TIMEOUT_S = 5.0
_POLL_S = 0.05
_MIB = 1 << 20
_V1_SHARES, _V2_WEIGHT = 1024, 100  # what whoever was not given another has


@dataclass(frozen=True)
class Allowance:
    """What the guests of an installation may use up."""

    memory_mib: int
    processes: int

    def values(self) -> dict[str, tuple[tuple[str, int], tuple[str, int]]]:
        """For each controller the file and its number, in the first and in the second kind."""
        memory = self.memory_mib * _MIB
        return {
            "memory": (("memory.limit_in_bytes", memory), ("memory.max", memory)),
            "pids": (("pids.max", self.processes), ("pids.max", self.processes)),
            "cpu": (("cpu.shares", _V1_SHARES // CPU_SHARE), ("cpu.weight", _V2_WEIGHT // CPU_SHARE)),
        }


CONTROLLERS = ("memory", "pids", "cpu")


@dataclass(frozen=True)
class Hierarchy:
    """A tree of groups: its kind, and the group in it below which ours is made."""

    version: int
    parent: Path


@dataclass(frozen=True)
class Group:
    """Where the group is for each controller, and why it is nowhere for the others."""

    places: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def directories(self) -> list[Path]:
        """Each once."""
        return [Path(place) for place in dict.fromkeys(self.places.values())]

    def members(self) -> set[int]:
        """The processes in it."""
        return {int(word) for directory in self.directories for word in _read(directory / "cgroup.procs").split()}

    def holds(self, pid: int) -> bool:
        """Whether the process is in it, for each controller that there is."""
        return bool(self.places) and all(
            str(pid) in _read(directory / "cgroup.procs").split() for directory in self.directories
        )


def name_of(state: State) -> str:
    """What the group is called, in every tree."""
    return f"malbox-{sha256(os.fsencode(state.root)).hexdigest()[:12]}"


def allowance(machines_file: Path, meminfo: Path = Path("/proc/meminfo")) -> Allowance:
    """What the machines of the file need, and never what the host itself needs. Without such a file, all but that."""
    total_mib = (
        next(int(line.split()[1]) for line in _read(meminfo).splitlines() if line.startswith("MemTotal:")) // 1024
    )
    to_spare_mib = max(total_mib - max(RESERVE_MIN_MIB, total_mib // RESERVE_SHARE), OVERHEAD_MIB)
    guests = _memory_of_machines(machines_file)
    if guests is None:
        return Allowance(to_spare_mib, PROCESSES_OF_DAEMON + PROCESSES_OF_GUEST * max(1, to_spare_mib // OVERHEAD_MIB))
    needed_mib = sum(guests) + OVERHEAD_MIB * (len(guests) + 1)
    return Allowance(min(needed_mib, to_spare_mib), PROCESSES_OF_DAEMON + PROCESSES_OF_GUEST * len(guests))


def prepare(state: State, wanted: Allowance) -> Group:
    """The group is there with these limits, for each controller that can be had; what was there before is used."""
    known = remembered(state)
    trees = hierarchies()
    group = Group()
    for controller in CONTROLLERS:
        try:
            place, version = _placed(state, controller, known, trees)
            _limit(place, wanted.values()[controller][version - 1])
            _keep_from_swap(place)
        except OSError as error:
            group.missing[controller] = error.strerror or str(error)
        else:
            group.places[controller], group.versions[controller] = str(place), version
    write_private(_file(state), json.dumps({"boot_id": boot_id(), **asdict(group)}), mode=0o644)
    return group


def widen(state: State, wanted: Allowance) -> None:
    """No limit is lower than that. None is made lower: what a machine that left the file still runs on stays."""
    group = remembered(state) or Group()
    for controller in ("memory", "pids"):
        if controller in group.places:
            name, number = wanted.values()[controller][group.versions[controller] - 1]
            path = Path(group.places[controller]) / name
            with contextlib.suppress(OSError, ValueError):
                if int(path.read_text(encoding="ascii")) < number:
                    path.write_text(str(number), encoding="ascii")


def remove(state: State) -> bool:
    """Nothing of the group is left; False where something in it does not end."""
    group = remembered(state)
    is_gone = gone(group.directories if group else ())
    if is_gone:
        _file(state).unlink(missing_ok=True)
    return is_gone


def gone(directories: Iterable[Path], inside: Callable[[Path], Iterable[Path]] = lambda _directory: ()) -> bool:
    """Nothing is left of the groups, nor of those inside of them; False where something in one does not end."""
    give_up_at = time.monotonic() + REMOVAL_TIMEOUT_S
    for directory in directories:
        while directory.exists():
            for each in (*inside(directory), directory):
                with contextlib.suppress(OSError):
                    each.rmdir()
            if directory.exists():  # what was ended leaves its group a moment later
                if time.monotonic() > give_up_at:
                    return False
                time.sleep(_POLL_S)
    return True


def joined(group: Group, user: str, argv: Sequence[str]) -> list[str]:
    """The command, run in the group by that user: by us until it is in, for nobody else may put it there."""
    uid, gid = ids_of(user)
    groups = group_ids_of(user)
    own = json.dumps({"places": [str(place) for place in group.directories], "uid": uid, "gid": gid, "groups": groups})
    return [sys.executable, "-I", join.__file__, own, *argv]


def remembered(state: State) -> Group | None:
    """The group as it was made since the host was started; None when it was not."""
    try:
        said = json.loads(_file(state).read_text(encoding="utf-8"))
        return Group(**said) if said.pop("boot_id") == boot_id() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def said(group: Group) -> tuple[str, str]:
    """What guests are limited to, and what they are not limited to, in words."""
    kinds = Allowance(0, 0).values()
    numbers = {
        controller: int(_read(Path(place) / kinds[controller][group.versions[controller] - 1][0]) or 0)
        for controller, place in group.places.items()
    }
    words = {
        "memory": f"{numbers.get('memory', 0) // _MIB} MiB of memory",
        "pids": f"{numbers.get('pids', 0)} processes",
        "cpu": f"1/{CPU_SHARE} of a service's weight on the processors",
    }
    limited = ", ".join(words[controller] for controller in numbers)
    return limited, "; ".join(f"{controller}: {why}" for controller, why in group.missing.items())


def hierarchies(proc: Path = Path("/proc/self")) -> dict[str, Hierarchy]:
    """For each controller that can be had the tree and the group below which ours may be made."""
    own = {kind: path for _, kind, path in (line.split(":", 2) for line in _read(proc / "cgroup").splitlines())}
    found: dict[str, Hierarchy] = {}
    for version, options, root, mount in _mounted(_read(proc / "mountinfo")):
        if version == 1:
            kinds = {name: path for kind, path in own.items() for name in kind.split(",")}
            found |= {
                name: Hierarchy(1, _below(mount, root, kinds[name]))
                for name in CONTROLLERS
                if name in options and name in kinds
            }
        else:
            for name in CONTROLLERS:
                parent = _distributing(name, _below(mount, root, own.get("", "/")), mount)
                if parent is not None:
                    found.setdefault(name, Hierarchy(2, parent))
    return found


def _mounted(mountinfo: str) -> Iterator[tuple[int, list[str], str, Path]]:
    """Kind, options, root and place of each tree (proc(5), mountinfo)."""
    for line in mountinfo.splitlines():
        words, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            root, place = words.split(" ")[3:5]
            yield (2 if kind == "cgroup2" else 1), options.split(","), root, Path(place)


def _below(mount: Path, root: str, path: str) -> Path:
    """Where a group is seen; the mount itself where the group is not in what is mounted."""
    inside = Path(path)
    return mount / (inside.relative_to(root) if inside.is_relative_to(root) else "")


def _distributing(controller: str, own: Path, mount: Path) -> Path | None:
    """The nearest group whose children have the controller: in the second kind one with processes has none such."""
    for place in (own, *own.parents):
        if not place.is_relative_to(mount):
            return None
        if controller in _read(place / "cgroup.subtree_control").split():
            return place
    return None


def _placed(state: State, controller: str, known: Group | None, trees: dict[str, Hierarchy]) -> tuple[Path, int]:
    """The group's directory, made now if it was not there, and the kind of its tree. Raises OSError."""
    if known is not None and controller in known.places and Path(known.places[controller]).is_dir():
        return Path(known.places[controller]), known.versions[controller]
    if controller not in trees:
        raise OSError("no tree of control groups gives it to others")
    tree = trees[controller]
    place = tree.parent / name_of(state)
    place.mkdir(exist_ok=True)
    return place, tree.version


def _limit(place: Path, value: tuple[str, int]) -> None:
    name, number = value
    (place / name).write_text(str(number), encoding="ascii")


def _keep_from_swap(place: Path) -> None:
    """A guest that takes more than its memory is ended; one that swapped would slow down everybody instead."""
    for file in ("memory.swappiness", "memory.swap.max"):
        if (place / file).exists():
            (place / file).write_text("0", encoding="ascii")


def _memory_of_machines(machines_file: Path) -> list[int] | None:
    """Of each machine in MiB; None where the file cannot be read: whether it is good is for the service to say."""
    try:
        with machines_file.open("rb") as stream:
            content: dict[str, Any] = tomllib.loads(stream.read(FILE_MAX_BYTES).decode())
        profiles = content["profile"]
        return [
            int(machine.get("memory_mib", profiles[machine["profile"]].get("memory_mib", MEMORY_DEFAULT_MIB)))
            for machine in content["machine"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _file(state: State) -> Path:
    return state.run / "guests.group"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def boot_id() -> str:
    """Of the host's present start: groups do not outlive it."""
    return _read(Path("/proc/sys/kernel/random/boot_id")).strip()
