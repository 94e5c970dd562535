"""Loopback ports of an installation: chosen once, kept in a file, moved aside when somebody else has taken one."""

import contextlib
import hashlib
import socket
import tomllib
from dataclasses import dataclass
from pathlib import Path

from deploy.local.state import DeployError, State, write_private

LOOPBACK = "127.0.0.1"
NAMES = ("gateway", "intake", "scheduler", "machines", "plugins", "results", "postgres", "amqp", "dist", "epmd")
FIRST = 20_000
LAST = 32_000  # below the range that the kernel hands out for outgoing connections
ATTEMPTS_MAX = 2_000


@dataclass(frozen=True)
class Moved:
    """A port that had to be given up, and to whom."""

    name: str
    port: int
    taken_by: str
    now: int

    def __str__(self) -> str:
        """One line for the operator."""
        return f"port {self.port} ({self.name}) is taken by {self.taken_by}; using {self.now} instead"


class Ports:
    """The ports of one installation by name."""

    def __init__(self, numbers: dict[str, int]) -> None:
        self._numbers = numbers

    def __getitem__(self, name: str) -> int:
        return self._numbers[name]

    def text(self) -> str:
        """The file that keeps them."""
        lines = "".join(f"{name} = {self._numbers[name]}\n" for name in NAMES)
        return "# Ports on 127.0.0.1, chosen once.\n" + lines


def ports_file(state: State) -> Path:
    """Where the ports are kept."""
    return state.etc / "ports.toml"


def load(state: State) -> Ports | None:
    """The ports of the installation, or None when none were chosen yet. Raises DeployError."""
    try:
        numbers = tomllib.loads(ports_file(state).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DeployError(f"{ports_file(state)}: {error}; delete the file to have ports chosen anew") from error
    if not all(isinstance(numbers.get(name), int) for name in NAMES):
        raise DeployError(
            f"{ports_file(state)}: needs a number for each of {', '.join(NAMES)}; delete it to start anew"
        )
    return Ports({name: numbers[name] for name in NAMES})


def settle(state: State, in_use_by_us: frozenset[str] = frozenset()) -> tuple[Ports, list[Moved]]:
    """Ports that can be used, and those that had to move. Names in `in_use_by_us` are ours already and stay."""
    kept = load(state)
    numbers: dict[str, int] = {}
    moved: list[Moved] = []
    for name in NAMES:
        wanted = kept[name] if kept else None
        if wanted is not None and (name in in_use_by_us or is_free(wanted)):
            numbers[name] = wanted
            continue
        numbers[name] = choose(state, name, avoid=set(numbers.values()))
        if wanted is not None:
            moved.append(Moved(name, wanted, holder_of(wanted), numbers[name]))
    ports = Ports(numbers)
    write_private(ports_file(state), ports.text(), mode=0o644)
    return ports, moved


def choose(state: State, name: str, avoid: set[int]) -> int:
    """A free port; the same installation starts looking at the same place. Raises DeployError."""
    digest = hashlib.sha256(f"{state.root}:{name}".encode()).digest()
    first = int.from_bytes(digest[:4], "big")
    for step in range(ATTEMPTS_MAX):
        port = FIRST + (first + step) % (LAST - FIRST)
        if port not in avoid and is_free(port):
            return port
    raise DeployError(f"no free port between {FIRST} and {LAST} on {LOOPBACK}: stop something that listens there")


def is_free(port: int) -> bool:
    """Whether nobody listens on the port, on loopback or everywhere."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def holder_of(port: int) -> str:
    """Who listens on the port, as far as it may be seen: a process name and number."""
    inode = _listening_inode(port)
    if inode is None:
        return "a process that has gone by now"
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) == f"socket:[{inode}]" for link in (entry / "fd").iterdir()):
                return f"{(entry / 'comm').read_text(encoding='utf-8').strip()} (process {entry.name})"
    return "a process of another user"


def _listening_inode(port: int) -> str | None:
    """The socket's number in /proc/net/tcp (proc(5)): column 2 is the local address, 4 the state, 10 the inode."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="utf-8").splitlines()[1:]:
                column = line.split()
                if int(column[1].rpartition(":")[2], 16) == port and column[3] == "0A":
                    return column[9]
    return None
