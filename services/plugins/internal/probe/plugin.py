"""Tries what a hostile plugin would try first. One missing wall fails the run, and with it the service's start."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from malbox.sdk import Context, PluginFailure, landlock

CLONE_NEWUSER = 0x10000000


def run(context: Context) -> None:
    """Every wall was met. Raises PluginFailure naming those that were not there."""
    if context.sample.read_bytes() != b"probe":
        raise PluginFailure("the sample cannot be read")
    (context.scratch / "written").write_text("yes", encoding="ascii")
    known = landlock.version()
    missing = [wall for wall, attempt in ATTEMPTS.items() if _succeeds(attempt)]
    missing += [wall for wall, (since, attempt) in BEHIND_THEM.items() if known >= since and _succeeds(attempt)]
    if missing:
        raise PluginFailure("missing: " + ", ".join(missing))


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def _unshare_user() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _environment() -> None:
    unexpected = set(os.environ) - {"PWD", "LC_CTYPE"}
    if not unexpected:
        raise OSError("clean")


def _too_many_files() -> None:
    with (Path("/scratch") / "large").open("wb") as large:
        for _ in range(4):
            large.write(bytes(1024 * 1024))


def _program_of_its_own() -> None:
    path = Path("/scratch") / "program"
    path.write_bytes(Path("/usr/bin/true").read_bytes())
    path.chmod(0o700)
    subprocess.run([path], check=True, timeout=10)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "no access to /etc": lambda: Path("/etc/passwd").read_bytes(),
    "no process file system": lambda: os.listdir("/proc"),  # noqa: PTH208 - a name less to resolve
    "a read-only root": lambda: Path("/escaped").write_bytes(b""),
    "a read-only sample": lambda: Path("/input/sample").write_bytes(b""),
    "no sockets": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "no user namespaces": _unshare_user,
    "a clean environment": _environment,
    "a bounded scratch directory": _too_many_files,
}

BEHIND_THEM: dict[str, tuple[int, Callable[[], object]]] = {  # walls of Landlock, and the version that has them
    "no programs out of scratch": (1, _program_of_its_own),
    "no signals to the first process": (6, lambda: os.kill(os.getppid(), 0)),
}
