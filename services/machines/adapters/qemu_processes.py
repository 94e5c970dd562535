"""The hypervisor processes of one machine, found in the process table: what libvirt forgot still runs.

A process belongs to a machine when it names a file in the machine's directory. It is ended through a pidfd, so that a
reused number never hits a stranger.
"""

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

from services.machines.errors import HypervisorUnavailable

_EMULATOR_PREFIX = "qemu-system-"


def of_machine(directory: Path, proc: Path = Path("/proc")) -> list[int]:
    """Process ids of emulators that use a file in `directory`. A zombie is none: it holds nothing any more."""
    mark = f"{directory}/"
    return [
        int(entry.name)
        for entry in proc.iterdir()
        if entry.name.isdecimal()
        and _is_emulator(words := arguments(int(entry.name), proc))
        and mark in " ".join(words)
    ]


def arguments(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """The process's command line; empty when it has ended."""
    try:
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")


def end_all(directory: Path, *, timeout_s: float) -> int:
    """No process of the machine exists; how many were ended. Raises HypervisorUnavailable when one will not end."""
    deadline_s = time.monotonic() + timeout_s
    ended = 0
    while pids := of_machine(directory):
        for pid in pids:
            ended += _end(pid, directory, max(0.0, deadline_s - time.monotonic()))
        if time.monotonic() > deadline_s:
            raise HypervisorUnavailable(f"processes {pids} of {directory.name} did not end within {timeout_s} s")
    return ended


def _is_emulator(words: list[str]) -> bool:
    return bool(words) and Path(words[0]).name.startswith(_EMULATOR_PREFIX)


def _end(pid: int, directory: Path, timeout_s: float) -> int:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            # The number may have changed hands before the handle was taken; from here on it cannot.
            if f"{directory}/" not in " ".join(arguments(pid)):
                return 0
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            watch = select.poll()
            watch.register(handle, select.POLLIN)
            watch.poll(timeout_s * 1000)
        finally:
            os.close(handle)
        return 1
    return 0
