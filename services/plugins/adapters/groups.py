"""Control groups for sandboxes, made below directories that the deployment has given to this service.

The kernel has two kinds (cgroups(7)): a tree for each controller (version 1), or one tree for all of them (version 2).
A sandbox is started inside its group, so nothing of it was ever outside. When it ends, whoever is still in the group is
killed; a group that cannot be removed is a process that lives on.
"""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from services.plugins.adapters.process_tree import readable
from services.plugins.errors import SandboxUnavailable

MIB = 1024 * 1024
CONTROLLERS = ("memory", "pids", "cpu")
CPU_PERIOD_US = 100_000
OUTSIDERS = 8  # tasks that the limit inside does not count: the outer process and what starts it
BESIDE_MIB = 48  # what the kernel counts beside the plugin's own memory: page tables, files that are being read
PREFIX = "sandbox-"
LOOK_S = 0.01
ENTER = 'for group in $0; do echo 0 > "$group/cgroup.procs" || exit 125; done; exec "$@"'

log = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use, all its processes together."""

    memory_mib: int
    tasks: int
    cpu: int

    def files(self) -> Mapping[str, Mapping[str, str]]:
        """For each controller the files of both kinds, in the order in which they are written, and what is written."""
        memory, swap = str((self.memory_mib + BESIDE_MIB) * MIB), "0"
        return {
            "memory": {
                "memory.limit_in_bytes": memory,
                "memory.memsw.limit_in_bytes": memory,
                "memory.max": memory,
                "memory.swap.max": swap,
                "memory.oom.group": "1",
            },
            "pids": {"pids.max": str(self.tasks + OUTSIDERS)},
            "cpu": {
                "cpu.cfs_period_us": str(CPU_PERIOD_US),
                "cpu.cfs_quota_us": str(self.cpu * CPU_PERIOD_US),
                "cpu.max": f"{self.cpu * CPU_PERIOD_US} {CPU_PERIOD_US}",
            },
        }


@dataclass
class Group:
    """One sandbox's group: a directory in each tree."""

    directories: tuple[Path, ...]
    _stack: ExitStack = field(default_factory=ExitStack)
    _overflow_fd: int | None = None

    def entered(self) -> Sequence[str]:
        """What a command is preceded by, to be in the group from its first instruction on."""
        return ("/bin/sh", "-c", ENTER, " ".join(map(str, self.directories)))

    @property
    def has_memory(self) -> bool:
        """Whether the kernel counts the memory of all of it together."""
        return any(list(directory.glob("memory.*")) for directory in self.directories)

    async def wait_overflow(self) -> None:
        """All of it together were to have more memory than there is for them; who asked for it has been killed."""
        if self._overflow_fd is None:
            await asyncio.get_running_loop().create_future()
        else:
            await readable(self._overflow_fd)

    def was_over(self) -> bool:
        """Whether the kernel killed for memory in it."""
        for name in ("memory.oom_control", "memory.events"):
            for directory in self.directories:
                with contextlib.suppress(OSError):
                    words = (directory / name).read_text(encoding="ascii").split()
                    if words[words.index("oom_kill") + 1] != "0":
                        return True
        return False

    def members(self) -> set[int]:
        """The processes in it."""
        found: set[int] = set()
        for directory in self.directories:
            with contextlib.suppress(OSError):
                found.update(map(int, (directory / "cgroup.procs").read_text(encoding="ascii").split()))
        return found

    def watch_overflow(self) -> None:
        """The kernel will say so (version 1: cgroups/memory.txt, "OOM control"). Version 2 kills all at once itself."""
        for directory in self.directories:
            if (directory / "memory.oom_control").exists():
                self._overflow_fd = os.eventfd(0)
                self._stack.callback(os.close, self._overflow_fd)
                with (directory / "memory.oom_control").open("rb") as control:
                    (directory / "cgroup.event_control").write_text(
                        f"{self._overflow_fd} {control.fileno()}", encoding="ascii"
                    )

    def give_up(self) -> None:
        """It is gone; nobody was in it yet."""
        self._stack.close()
        for directory in self.directories:
            with contextlib.suppress(OSError):
                directory.rmdir()

    async def remove(self, timeout_s: float) -> None:
        """Whoever is in it is killed, and it is gone. Raises TimeoutError."""
        self._stack.close()
        self._overflow_fd = None
        async with asyncio.timeout(timeout_s):
            while not self._is_removed():
                for pid in self.members():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(LOOK_S)  # the kernel does not say when the last one has left

    def _is_removed(self) -> bool:
        for directory in self.directories:
            with contextlib.suppress(FileNotFoundError):
                try:
                    directory.rmdir()
                except OSError:
                    return False
        return True


class Groups:
    """Makes a group for each sandbox below each of these directories."""

    def __init__(self, parents: Sequence[Path]) -> None:
        self._parents = tuple(parents)
        self._numbers = itertools.count()
        self.limited: tuple[str, ...] = ()

    async def probe(self, timeout_s: float) -> None:
        """What a predecessor left is gone, and `limited` says for which controllers a group can be made."""
        usable = []
        for parent in self._parents:
            try:
                for left in parent.glob(f"{PREFIX}*"):
                    await Group((left,)).remove(timeout_s)
                probe = parent / f"{PREFIX}probe"
                probe.mkdir()
                controllers = {name for name in CONTROLLERS if any(probe.glob(f"{name}.*"))}
                probe.rmdir()
            except (OSError, TimeoutError) as error:
                log.warning("control_groups_cannot_be_used", place=str(parent), reason=str(error))
            else:
                usable.append(parent)
                self.limited = tuple(name for name in CONTROLLERS if name in {*self.limited, *controllers})
        self._parents = tuple(usable)

    def make(self, limits: Limits) -> Group | None:
        """A group with these limits; None where none can be had. Raises SandboxUnavailable where one is refused now."""
        if not self._parents:
            return None
        name = f"{PREFIX}{os.getpid()}-{next(self._numbers)}"
        group = Group(tuple(parent / name for parent in self._parents))
        try:
            for directory in group.directories:
                directory.mkdir()
                _limit(directory, limits)
            group.watch_overflow()
        except OSError as error:
            group.give_up()
            raise SandboxUnavailable(f"no control group can be made for a sandbox: {error}") from error
        return group


def _limit(directory: Path, limits: Limits) -> None:
    for files in limits.files().values():
        for name, value in files.items():
            if (directory / name).exists():
                (directory / name).write_text(value, encoding="ascii")
