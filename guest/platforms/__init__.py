"""What the agent needs of an operating system, and the one that it runs on."""

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from guest.journal import Journal


class PlatformRefused(Exception):
    """The operating system cannot or will not do it; the message says why."""


@dataclass(frozen=True)
class Program:
    """What is to run: an argument list, never a shell's string.

    `string_bytes` bounds each string in the trace, which is evidence under the name `trace_source` (empty: not kept).
    `has_network`: it gets the analysis card.
    """

    argv: tuple[str, ...]
    user: str
    cwd: Path
    environment: dict[str, str]
    work_dir: Path
    string_bytes: int
    trace_source: str
    has_network: bool = False


@dataclass(frozen=True)
class PluginProgram:
    """A guest plugin that is to run: a zip application, as the user `uid`, who is nobody else."""

    name: str
    uid: int
    bundle: Path
    scratch_dir: Path
    memory_mib: int
    scratch_mib: int
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeletedFile:
    """Bytes of a file that has no name any more: `copy` in the agent's own directory."""

    path: bytes
    copy: Path
    is_truncated: bool


@dataclass
class Stopped:
    """What the end of a process tree left."""

    killed: int = 0
    deleted_files: list[DeletedFile] = field(default_factory=list)


class Tree(Protocol):
    """The sample's processes, followed from the first one on."""

    pid: int
    started_at_ns: int

    @property
    def exec_error(self) -> str:
        """Why the kernel refused the program; empty when it runs."""

    def stop(self) -> Stopped:
        """No process of the tree exists, and the journal has everything that they did. Safe to repeat."""


Phase = Callable[[bytes, BinaryIO], None]


class Platform(Protocol):
    """One operating system."""

    name: str
    capabilities: tuple[str, ...]

    def boot_id(self) -> str:
        """Another one after every boot."""

    def set_clock(self, wall_clock_ns: int) -> None:
        """The system's clock shows that instant. Raises PlatformRefused."""

    def mix_entropy(self, entropy: bytes) -> None:
        """The system's random generator starts anew, from these bytes too. Raises PlatformRefused."""

    def stand_by(self, entry: Phase) -> Callable[[bytes], bytes]:
        """A fresh process waits to run a phase of the agent, once.

        Calling what is returned gives it its argument and returns what it wrote. Raises PlatformRefused.
        """

    def give_to_sample(self, path: Path, user: str) -> None:
        """The file is the sample user's, readable and executable. Raises PlatformRefused."""

    def launch(self, program: Program, journal: Journal) -> Tree:
        """The program runs, and what its tree does goes to the journal. Raises PlatformRefused."""

    def check_tracer(self) -> None:
        """System calls can be traced here. Raises PlatformRefused."""

    def start_plugin(self, program: PluginProgram) -> "subprocess.Popen[bytes]":
        """The plugin's process runs, confined; its three streams are pipes. Raises PlatformRefused."""

    def end_plugin(self, process: "subprocess.Popen[bytes]", program: PluginProgram) -> None:
        """Neither the process nor anything that it started exists. Safe to repeat."""

    def wait_for_ever(self) -> None:
        """The process does nothing until it is ended from outside."""


@functools.cache
def this_platform() -> Platform:
    """The one that this process runs on, and what is known of it already: a forked process inherits that."""
    if sys.platform == "win32":
        from guest.platforms.windows import Windows  # noqa: PLC0415 - imports of the other system do not exist here

        return Windows()
    from guest.platforms.linux import Linux  # noqa: PLC0415 - as above

    return Linux()
