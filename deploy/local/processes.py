"""Processes that outlive the command that started them, known by more than a number.

A process id is reused by the kernel, so a process is known by its id, the instant it started, and the boot it belongs
to (proc(5), field 22 of /proc/<pid>/stat). Nothing is signalled before that identity was checked on an open pidfd.
"""

import contextlib
import fcntl
import json
import os
import pwd
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.local.state import DeployError, State, group_ids_of, write_private

STOP_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 120.0
LOG_MAX_BYTES = 32 * 1024 * 1024
_PROCESS_LIST_MAX = 100_000


@dataclass(frozen=True)
class Identity:
    """One process, never another one that got its number later."""

    pid: int
    started_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The process that has the number now, or None. A zombie has ended."""
        stat = _stat_of(pid)
        if stat is None or stat[0] in {"Z", "X"}:
            return None
        return cls(pid, int(stat[19]), _boot_id())

    def is_running(self) -> bool:
        """Whether exactly this process still runs."""
        return Identity.of(self.pid) == self

    def open_pidfd(self) -> int | None:
        """A descriptor that becomes readable when the process ends, or None when it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.is_running():
            return descriptor
        os.close(descriptor)
        return None


@dataclass(frozen=True)
class Command:
    """What is to be started, as whom, where and with which environment."""

    name: str
    argv: Sequence[str]
    user: str
    env: Mapping[str, str]
    cwd: Path


def pid_file(state: State, name: str) -> Path:
    """Where the identity of a started process is kept."""
    return state.run / f"{name}.pid"


def started(state: State, name: str) -> Identity | None:
    """The running process of that name that this installation started, if any."""
    identity = remembered(state, name)
    return identity if identity is not None and identity.is_running() else None


def remembered(state: State, name: str) -> Identity | None:
    """The process that was last started under that name, running or not."""
    try:
        return Identity(**json.loads(pid_file(state, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember(state: State, name: str, identity: Identity) -> None:
    """The process can be found again by its name."""
    write_private(pid_file(state, name), json.dumps(asdict(identity)), mode=0o644)


def forget(state: State, name: str) -> None:
    """The name means no process any more."""
    pid_file(state, name).unlink(missing_ok=True)


@contextlib.contextmanager
def only_starter(state: State, name: str) -> Iterator[None]:
    """Nobody else is starting the process of that name; the kernel drops the lock of a starter that was killed."""
    with (state.run / f"{name}.lock").open("w") as lock:
        give_up_at = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise DeployError(f"somebody else has been starting {name} for {LOCK_TIMEOUT_S:.0f} s") from None
                time.sleep(0.05)
        yield


def spawn(state: State, command: Command) -> Identity:
    """The command runs in a session of its own with its output in `<state>/log`, and is remembered by its name."""
    end_orphans(state, command.name)
    log = open_log(state, command.name)
    as_user = _as_user(command.user)
    try:
        process = subprocess.Popen(
            list(command.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=command.cwd,
            env={"MALBOX_STATE": str(state.root), **command.env},
            start_new_session=True,
            umask=0o077,
            user=as_user.uid,
            group=as_user.gid,
            extra_groups=as_user.groups,
        )
    finally:
        os.close(log)
    process.returncode = 0  # it is not ours to wait for: the pidfd tells when it ends, `reap` collects it
    identity = Identity.of(process.pid)
    if identity is None:
        reap(process.pid)
        identity = Identity(process.pid, 0, "")
    remember(state, command.name, identity)
    return identity


def stop(
    state: State,
    name: str,
    how: signal.Signals = signal.SIGTERM,
    timeout_s: float = STOP_TIMEOUT_S,
) -> bool:
    """The process of that name has ended and is forgotten. Returns whether there was one."""
    identity = started(state, name)
    was_running = identity is not None and end(identity, how, timeout_s)
    end_orphans(state, name)
    forget(state, name)
    return was_running


def end_orphans(state: State, name: str) -> None:
    """Processes that an ended one has left in its session are killed: they hold its ports and files.

    The kernel gives a number away again only when no session bears it, so members of a session whose leader has ended
    are the children of that leader, and of nobody else.
    """
    leader = remembered(state, name)
    if leader is None or leader.boot_id != _boot_id() or Identity.of(leader.pid) is not None:
        return
    for member in session_members(leader.pid):
        end(member, signal.SIGKILL, KILL_TIMEOUT_S)


def session_members(session: int) -> list[Identity]:
    """The processes of a session (proc(5), field 6 of stat)."""
    numbers = [int(entry.name) for entry in sorted(Path("/proc").glob("[0-9]*"))[:_PROCESS_LIST_MAX]]
    members = [Identity.of(pid) for pid in numbers if (_stat_of(pid) or [""] * 4)[3] == str(session)]
    return [member for member in members if member is not None]


def working_in(folder: Path, title: bytes) -> list[Identity]:
    """The processes in that working directory whose command line begins with the title (proc(5), cwd and cmdline)."""
    found, place = [], folder.resolve()
    for entry in sorted(Path("/proc").glob("[0-9]*"))[:_PROCESS_LIST_MAX]:
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if (entry / "cwd").readlink() == place and (entry / "cmdline").read_bytes().startswith(title):
                found.append(Identity.of(int(entry.name)))
    return [process for process in found if process is not None]


def end(identity: Identity, how: signal.Signals, timeout_s: float) -> bool:
    """The process has ended: asked first, killed when it does not answer in time. Returns whether it ran."""
    descriptor = identity.open_pidfd()
    if descriptor is None:
        return False
    try:
        for number, patience_s in ((how, timeout_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if has_ended(descriptor, patience_s):
                break
    finally:
        os.close(descriptor)
    reap(identity.pid)
    return True


def has_ended(descriptor: int, timeout_s: float) -> bool:
    """Whether the process behind a pidfd ends within the time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def reap(pid: int) -> None:
    """A child that has ended leaves no zombie; somebody else's child is theirs to collect."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def leftovers(state: State) -> list[Identity]:
    """Processes that carry this installation's mark in their environment, or are its nginx, which overwrites it."""
    mark = b"MALBOX_STATE=" + os.fsencode(state.root)
    found = []
    for entry in sorted(Path("/proc").glob("[0-9]*"))[:_PROCESS_LIST_MAX]:
        with contextlib.suppress(OSError):
            is_ours = mark in (entry / "environ").read_bytes().split(b"\0") or _is_gateway(entry, state)
            if int(entry.name) != os.getpid() and is_ours:
                identity = Identity.of(int(entry.name))
                if identity is not None:
                    found.append(identity)
    return found


def _is_gateway(entry: Path, state: State) -> bool:
    title = (entry / "cmdline").read_bytes()
    return title.startswith(b"nginx: ") and (entry / "cwd").readlink() == state.nginx


def open_log(state: State, name: str) -> int:
    """A descriptor that appends to the log of a process; a log over 32 MiB becomes the previous one first."""
    path = state.log / f"{name}.log"
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_MAX_BYTES:
            path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def log_tail(state: State, name: str, lines: int = 12) -> str:
    """The last lines that a process wrote."""
    try:
        with (state.log / f"{name}.log").open("rb") as source:
            source.seek(max(0, source.seek(0, os.SEEK_END) - 16384))
            return "\n".join(source.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


@dataclass(frozen=True)
class _AsUser:
    uid: int | None = None
    gid: int | None = None
    groups: list[int] | None = None


def _as_user(user: str) -> _AsUser:
    if os.geteuid() != 0:
        return _AsUser()
    entry = pwd.getpwnam(user)
    return _AsUser(entry.pw_uid, entry.pw_gid, group_ids_of(user))


def _stat_of(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
