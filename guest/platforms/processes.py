"""Processes of the sample, seen through /proc: which there are, what deleted files they hold, and their end.

A process is the sample's when the tracer traces it, or when it is of the sample's user outside the agent's network
namespace: a program may ask the kernel to keep its child from the tracer (CLONE_UNTRACED), and is found so.
"""

import contextlib
import os
import pwd
import re
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

from guest import limits
from guest.platforms import DeletedFile

_TRACER = re.compile(rb"^TracerPid:\s+(\d+)$", re.MULTILINE)
_UID = re.compile(rb"^Uid:\s+(\d+)\s+(\d+)", re.MULTILINE)
_STATE = re.compile(rb"^State:\s+(\w)", re.MULTILINE)
_PASSES_MAX = 200
_PASS_PAUSE_S = 0.02
_DELETED = b" (deleted)"
_DESCRIPTORS_MAX = 1024


def of_sample(user: str, *, tracer: int) -> list[int]:
    """Living processes of the sample; zombies are not."""
    uid = pwd.getpwnam(user).pw_uid
    own_network = _network_of("self")
    return [pid for pid in _all() if _is_sample(pid, uid=uid, tracer=tracer, own_network=own_network)]


def of_user(uid: int) -> list[int]:
    """Living processes of that user, whoever started them; zombies are not."""
    return [pid for pid in _all() if _is_of_user(pid, uid)]


def kill_all(find: Callable[[], list[int]]) -> int:
    """Nothing is found any more, or the passes ran out; the number of processes killed.

    Found and killed again and again, because a program may fork while it is being killed.
    """
    killed: set[int] = set()
    for _ in range(_PASSES_MAX):
        left = find()
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(_PASS_PAUSE_S)  # the kernel needs a moment to tear a process down
    return len(killed)


def rescue_deleted(pids: list[int], into: Path) -> list[DeletedFile]:
    """Copies of regular files that those processes hold open, or execute, and that have no name any more."""
    into.mkdir(mode=0o700, exist_ok=True)
    rescued: dict[tuple[int, int], DeletedFile] = {}
    for pid in pids:
        for link in _links(pid):
            if len(rescued) >= limits.DELETED_FILES_MAX:
                return list(rescued.values())
            with contextlib.suppress(OSError):
                _rescue(link, into, rescued)
    return list(rescued.values())


def _all() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _is_sample(pid: int, *, uid: int, tracer: int, own_network: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    traced_by, state, owner = _TRACER.search(status), _STATE.search(status), _UID.search(status)
    if state is None or state[1] in (b"Z", b"X"):
        return False
    if traced_by is not None and int(traced_by[1]) == tracer:
        return True
    is_users = owner is not None and uid in (int(owner[1]), int(owner[2]))
    return is_users and _network_of(str(pid)) not in ("", own_network)


def _is_of_user(pid: int, uid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    state, owner = _STATE.search(status), _UID.search(status)
    is_alive = state is not None and state[1] not in (b"Z", b"X")
    return is_alive and owner is not None and uid in (int(owner[1]), int(owner[2]))


def _network_of(pid: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""


def _links(pid: int) -> list[Path]:
    folder = Path(f"/proc/{pid}")
    try:
        descriptors = sorted((folder / "fd").iterdir())[:_DESCRIPTORS_MAX]
    except OSError:
        descriptors = []
    return [folder / "exe", *descriptors]


def _rescue(link: Path, into: Path, rescued: dict[tuple[int, int], DeletedFile]) -> None:
    target = os.fsencode(link.readlink())
    if not target.endswith(_DELETED) or not stat.S_ISREG(link.stat().st_mode):
        return
    descriptor = os.open(link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        identity = (facts.st_dev, facts.st_ino)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size == 0 or identity in rescued:
            return
        copy = into / str(len(rescued))
        content = file.read(limits.FILE_MAX_BYTES + 1)
        copy.write_bytes(content[: limits.FILE_MAX_BYTES])
    rescued[identity] = DeletedFile(target.removesuffix(_DELETED), copy, len(content) > limits.FILE_MAX_BYTES)
