"""The hypervisor processes of one machine, found in the process table: what libvirt forgot still runs.

A process belongs to a machine when it names a file in the machine's directory. It is ended through a pidfd, so that a
reused number never hits a stranger.
"""

import os
import re
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from services.chassis.crash_points import Point, around
from services.machines.errors import Unstoppable

_EMULATOR_PREFIX = "qemu-system-"


_PROCESSOR_THREAD = "CPU "  # QEMU names a thread for each virtual processor: `CPU 0/TCG`, `CPU 0/KVM`
# libvirt's qemuDomainGetMasterKeyFilePath: <its state>/lib/domain-<number>-<start of the name>/master-key.aes
_MASTER_KEY = re.compile(r'"file":"([^"]*/domain-[0-9]+-[^"/]+)/master-key\.aes"')
_STOPPED = frozenset({"T", "t"})
_FENCED = "fenced_emulator"
_LISTENING = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it


class Process(BaseModel):
    """One process, never another one that got its number later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> "Process | None":
        """The process that has the number now, or None."""
        stat = _stat(pid, proc)
        return cls(pid=pid, started_ticks=int(stat[19])) if stat and stat[0] not in {"Z", "X"} else None


def is_stopped(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a signal or a debugger holds the process."""
    stat = _stat(pid, proc)
    return bool(stat) and stat[0] in _STOPPED


def processor_ns(pid: int, proc: Path = Path("/proc")) -> int:
    """How long the virtual processors have run, all together; 0 when the process has ended."""
    total = 0
    with suppress(OSError):
        for thread in (proc / str(pid) / "task").iterdir():
            if (thread / "comm").read_text(encoding="utf-8", errors="replace").startswith(_PROCESSOR_THREAD):
                total += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return total


def listens(pid: int, port: int, proc: Path = Path("/proc")) -> bool:
    """Whether the socket that listens on the port of the loopback is the process's own."""
    wanted = f"0100007F:{port:04X}"
    rows = (line.split() for line in (proc / "net" / "tcp").read_text(encoding="ascii").splitlines()[1:])
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == wanted and row[3] == _LISTENING}
    with suppress(OSError):
        for descriptor in (proc / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return False


def of_machine(directory: Path, proc: Path = Path("/proc")) -> list[int]:
    """Process ids of emulators that use a file in `directory`. A zombie is none: it holds nothing any more."""
    mark = os.fsencode(f"{directory}/")
    return [
        int(name)
        for name in os.listdir(proc)  # noqa: PTH208 - a thousand processes, many times for each lease
        if name.isdecimal() and mark in (raw := _command_line(f"{proc}/{name}")) and _is_emulator(_words(raw))
    ]


def arguments(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """The process's command line; empty when it has ended."""
    return _words(_command_line(f"{proc}/{pid}"))


def libvirt_directory(pid: int, proc: Path = Path("/proc")) -> Path | None:
    """Where libvirt keeps the process's monitor and key: named by its arguments, also when libvirt forgot it."""
    found = _MASTER_KEY.search(" ".join(arguments(pid, proc)))
    return Path(found[1]) if found else None


def end_all(directory: Path, *, timeout_s: float) -> int:
    """No process of the machine exists; how many were ended. Raises Unstoppable when one will not end."""
    deadline_s = time.monotonic() + timeout_s
    ended = 0
    while pids := of_machine(directory):
        for pid in pids:
            ended += _end(pid, directory, max(0.0, deadline_s - time.monotonic()))
        if time.monotonic() > deadline_s:
            numbers = ", ".join(map(str, pids))
            raise Unstoppable(
                f"{directory.name}: process {numbers} did not end within {timeout_s:.0f} s of SIGKILL. See in "
                f"/proc/{pids[0]} what holds it (state, wchan, cgroup); when it is gone, rebuild the machine"
            )
    return ended


def _command_line(process: str) -> bytes:
    try:
        with open(f"{process}/cmdline", "rb", buffering=0) as stream:  # noqa: PTH123 - as above
            return stream.read()
    except OSError:
        return b""


def _words(raw: bytes) -> list[str]:
    return raw.decode(errors="replace").split("\0") if raw else []


def _stat(pid: int, proc: Path) -> list[str]:
    """The fields of proc(5)'s stat from the third on: state, then numbers; empty when the process has ended."""
    try:
        raw = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return raw.rpartition(")")[2].split()


def _is_emulator(words: list[str]) -> bool:
    """Whether it is one, or is about to be (`fenced_emulator`): interpreter and option stand before its name."""
    return any(Path(word).name.startswith((_EMULATOR_PREFIX, _FENCED)) for word in words[:3])


def _end(pid: int, directory: Path, timeout_s: float) -> int:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            # The number may have changed hands before the handle was taken; from here on it cannot.
            if f"{directory}/" not in " ".join(arguments(pid)):
                return 0
            with around(Point.HOST_BEFORE, Point.HOST_AFTER):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            watch = select.poll()
            watch.register(handle, select.POLLIN)
            watch.poll(timeout_s * 1000)
        finally:
            os.close(handle)
        return 1
    return 0
