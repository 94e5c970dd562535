"""The private libvirt daemon: a session daemon of the machines' user, kept in the state directory.

It has no privilege to give away: QEMU runs as the same user, with a system call filter and no new privileges. The
system's own libvirt, if there is one, is neither used nor disturbed.
"""

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import libvirt

from deploy.local import guest_group, processes
from deploy.local.settings import machines_file
from deploy.local.state import DeployError, State, own_directory, write_private

NAME = "libvirt"
START_TIMEOUT_S = 30.0
SOCKET_PATH_MAX_CHARS = 100
_POLL_S = 0.05
_DAEMON = Path("/usr/sbin/libvirtd")
_EMULATOR_PREFIX = "qemu-system-"
_QEMU = Path("/usr/bin/qemu-system-x86_64")
_QEMU_CONF = """\
# Written at every start.
seccomp_sandbox = 1
max_core = 0
dump_guest_core = 0
stdio_handler = "file"
"""
_LIBVIRTD_CONF = """\
# Written at every start.
listen_tls = 0
listen_tcp = 0
log_outputs = "3:stderr"
max_clients = 64
"""


@dataclass(frozen=True)
class Started:
    """The daemon that answers."""

    pid: int
    uri: str


def uri(state: State) -> str:
    """Where a client finds the daemon, running or not."""
    return f"qemu:///session?socket={quote(str(_socket(state)))}"


def start(state: State) -> Started:
    """The daemon answers; started now if it did not run. Raises DeployError."""
    socket = _socket(state)
    if len(str(socket)) > SOCKET_PATH_MAX_CHARS:
        raise DeployError(f"{socket} is too long for a unix socket: choose a state directory with a shorter path")
    running = processes.started(state, NAME)
    if running is None:
        _prepare(state)
        running = processes.spawn(state, _command(state))
    _await_answer(state, running)
    return Started(running.pid, uri(state))


def stop(state: State) -> bool:
    """No daemon and no machine of this installation runs, and their group is gone. Returns whether the daemon did."""
    was_running = processes.stop(state, NAME)
    _end_machines(state)
    guest_group.remove(state)
    return was_running


def answers(state: State) -> bool:
    """Whether a client can speak to the daemon now."""
    try:
        connection = libvirt.open(uri(state))
    except libvirt.libvirtError:
        return False
    try:
        connection.getLibVersion()
    except libvirt.libvirtError:
        return False
    finally:
        connection.close()
    return True


def _socket(state: State) -> Path:
    return state.libvirt / "run" / "libvirt" / "libvirt-sock"


def _prepare(state: State) -> None:
    user = state.users.machines
    own_directory(state.libvirt, user, 0o700)
    for name in ("run", "config", "cache", "data"):
        own_directory(state.libvirt / name, user, 0o700)
    own_directory(state.libvirt / "config" / "libvirt", user, 0o700)
    _forget_old_emulator(state)
    write_private(state.libvirt / "config" / "libvirt" / "qemu.conf", _QEMU_CONF, user)
    write_private(state.libvirt / "config" / "libvirt" / "libvirtd.conf", _LIBVIRTD_CONF, user)


def _forget_old_emulator(state: State) -> None:
    """What libvirt remembers of the emulator is of the one that is installed.

    It looks at the file that it starts, and that one stays the same when QEMU is upgraded behind it.
    """
    found = str(_QEMU.stat().st_ctime_ns) if _QEMU.exists() else ""
    if write_private(state.libvirt / "emulator.ctime", found, state.users.machines):
        shutil.rmtree(state.libvirt / "cache" / "libvirt" / "qemu", ignore_errors=True)


def _command(state: State) -> processes.Command:
    home = state.libvirt
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_DATA_HOME": str(home / "data"),
        # QEMU keeps its temporary files where the installation's others are.
        "TMPDIR": str(home / "run"),
    }
    group = guest_group.prepare(state, guest_group.allowance(machines_file(state)))
    user = state.users.machines
    if not group.places:
        return processes.Command(NAME, _argv(), user, environment, home)
    starter = "root" if os.geteuid() == 0 else user
    return processes.Command(NAME, guest_group.joined(group, user, _argv()), starter, environment, home)


def _argv() -> list[str]:
    """The daemon, below a process that collects ended emulators at once.

    They are nobody's children, and libvirt waits until they are collected: an init that does so lazily, as in many
    containers and small virtual machines, makes each destroy last seconds.
    """
    reaper = shutil.which("tini")
    return [reaper, "-s", "--", str(_DAEMON)] if reaper else [str(_DAEMON)]


def _await_answer(state: State, running: processes.Identity) -> None:
    """The daemon's first answer takes seconds: it asks every emulator what it can do."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not answers(state):
        if not running.is_running():
            processes.reap(running.pid)
            raise DeployError(f"the private libvirt daemon ended:\n{processes.log_tail(state, NAME)}")
        if time.monotonic() > give_up_at:
            raise DeployError(
                f"the private libvirt daemon did not answer within {START_TIMEOUT_S:.0f} s:\n"
                f"{processes.log_tail(state, NAME)}"
            )
        time.sleep(_POLL_S)


def _end_machines(state: State) -> None:
    """Emulators outlive their daemon; without an owner they must not. Nor may anything else that is in their group."""
    for pid in (guest_group.remembered(state) or guest_group.Group()).members():
        member = processes.Identity.of(pid)
        if member is not None:
            processes.end(member, signal.SIGTERM, processes.KILL_TIMEOUT_S)
    mark = os.fsencode(f"{state.machines}/")
    for entry in sorted(Path("/proc").glob("[0-9]*")):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if Path(os.fsdecode(words[0])).name.startswith(_EMULATOR_PREFIX) and any(mark in word for word in words):
            identity = processes.Identity.of(int(entry.name))
            if identity is not None:
                processes.end(identity, signal.SIGTERM, processes.KILL_TIMEOUT_S)
