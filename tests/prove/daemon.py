"""The private libvirt daemon, killed as a crash would."""

import os
import signal
from pathlib import Path

from deploy.local import libvirt, processes
from deploy.local.state import State


def kill(state: State) -> None:
    """The daemon and the process above it got SIGKILL; the emulators that it started run on."""
    running = processes.started(state, libvirt.NAME)
    assert running is not None, "there is no daemon to kill"
    for child in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="ascii").split():
        if Path(f"/proc/{child}/comm").read_text(encoding="ascii").strip() == "libvirtd":
            os.kill(int(child), signal.SIGKILL)
    processes.end(running, signal.SIGKILL, processes.KILL_TIMEOUT_S)
