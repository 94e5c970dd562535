"""The network helper: the one part that runs as root. It makes, checks and takes away the networks of guests.

Where Malbox was not started by root there is none, and guests have no network: nothing else of it needs root.
"""

import hashlib
import os
from pathlib import Path

from deploy.local import processes
from deploy.local.state import State, write_private

NAME = "network"
PROGRAMS = tuple(map(Path, ("/usr/sbin/nft", "/usr/sbin/ip", "/usr/bin/tcpdump", "/usr/bin/inetsim", "/usr/bin/bwrap")))
TUN = Path("/dev/net/tun")


def is_possible() -> bool:
    """Whether this installation can have the helper."""
    return os.geteuid() == 0


def settings_file(state: State) -> Path:
    """What the helper is told."""
    return state.etc / "network.toml"


def socket_file(state: State) -> Path:
    """Where the machines service asks it."""
    return state.network / "helper"


def start(state: State) -> processes.Identity:
    """The helper runs."""
    with processes.only_starter(state, NAME):
        running = processes.started(state, NAME)
        if running is not None:
            return running
        write_private(_version_file(state), _version(state), mode=0o644)
        return processes.spawn(state, _command(state))


def stop(state: State) -> bool:
    """The helper and every network are gone. Returns whether it ran."""
    return processes.stop(state, NAME)


def is_current(state: State) -> bool:
    """Whether what runs has the installed source, the present settings and the operator's present words."""
    try:
        return _version_file(state).read_text(encoding="utf-8") == _version(state)
    except OSError:
        return False


def _version(state: State) -> str:
    digest = hashlib.sha256()
    for path in (state.app / "digest", settings_file(state), state.etc / "fleet.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version_file(state: State) -> Path:
    return state.run / f"{NAME}.version"


def _command(state: State) -> processes.Command:
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "MALBOX_CONFIG": str(settings_file(state)),
        "PYTHONPATH": str(state.app),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return processes.Command(NAME, [str(state.python), "-P", "-m", "services.machines.network"], "root", env, state.app)
