"""Other processes: the proof is what the host sees of the victim."""

import ctypes
import os
import resource
import signal
import struct
from pathlib import Path

from .known import Targets, attempt, call

PTRACE_ATTACH, PTRACE_DETACH = 16, 17


@attempt()
def _kill(targets: Targets) -> object:
    os.kill(targets["victim"], signal.SIGKILL)
    return True


@attempt()
def _kill_by_descriptor(targets: Targets) -> object:
    signal.pidfd_send_signal(os.pidfd_open(targets["victim"]), signal.SIGKILL)
    return True


@attempt()
def _trace(targets: Targets) -> object:
    call(101, PTRACE_ATTACH, targets["victim"], 0, 0)
    os.waitpid(targets["victim"], 0)
    return call(101, PTRACE_DETACH, targets["victim"], 0, 0) + 1


@attempt()
def _read_memory(targets: Targets) -> object:
    return _memory(310, targets)


@attempt()
def _write_memory(targets: Targets) -> object:
    return _memory(311, targets)


@attempt()
def _slow_down(targets: Targets) -> object:
    os.setpriority(os.PRIO_PROCESS, targets["victim"], 19)
    return True


@attempt()
def _limit(targets: Targets) -> object:
    resource.prlimit(targets["victim"], resource.RLIMIT_NOFILE, (7, 7))
    return True


@attempt()
def _take_a_descriptor(targets: Targets) -> object:
    return call(438, os.pidfd_open(targets["victim"]), 0, 0)


@attempt(root=True)
def _signal_its_parent(_: Targets) -> object:
    os.kill(os.getppid(), 0)
    return True


def _memory(number: int, targets: Targets) -> int:
    """One byte of the victim's vector of arguments, which is readable and writable."""
    fields = Path(f"/proc/{targets['victim']}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    own = ctypes.create_string_buffer(1)
    here = ctypes.create_string_buffer(struct.pack("2Q", ctypes.addressof(own), 1))
    there = ctypes.create_string_buffer(struct.pack("2Q", int(fields[45]), 1))
    return call(number, targets["victim"], here, 1, there, 1, 0)
