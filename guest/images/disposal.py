"""Scratch directories of a build: one builder at a time, and what an interrupted one left is removed.

Nothing is removed across a mount: below a bind mount lies somebody else's tree, whatever the path says.
"""

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guest.images.errors import ImageError
from guest.images.tools import as_root, found, run

LOCK_TIMEOUT_S = 900
REMOVE_TIMEOUT_S = 120
MOUNTS = Path("/proc/self/mountinfo")
_MOUNTS_NAMED_MAX = 5
_LOCK_POLL_S = 0.5
_OCTAL = re.compile(r"\\([0-7]{3})")


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Nobody else is inside; the kernel drops the lock of a process that was killed. Raises ImageError."""
    with path.open("w") as stream:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ImageError(f"another build holds {path} for more than {LOCK_TIMEOUT_S} s") from None
                time.sleep(_LOCK_POLL_S)
        yield


@contextmanager
def scratch(prefix: str, folder: Path) -> Iterator[Path]:
    """A directory for the time of a build; those that interrupted builds have left there are removed first.

    Everybody may walk through it: apt drops to a user of its own while it downloads.
    """
    for leftover in folder.glob(f"{prefix}*"):
        remove(leftover)
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    try:
        made.chmod(0o755)
        yield made
    finally:
        remove(made)


def remove(folder: Path) -> None:
    """The directory is gone with everything in it. Raises ImageError when something is mounted below it."""
    if not folder.exists():
        return
    mounted = mounts_below(folder, MOUNTS.read_text(encoding="utf-8"))
    if mounted:
        named = " ".join(map(str, mounted[:_MOUNTS_NAMED_MAX]))
        raise ImageError(f"{folder} is not removed, for something is mounted in it. First: umount {named}")
    if os.geteuid() == 0:
        shutil.rmtree(folder)
    else:
        argv = [*as_root(), found("rm"), "--recursive", "--force", "--one-file-system", str(folder)]
        run(argv, timeout_s=REMOVE_TIMEOUT_S)


def mounts_below(folder: Path, mountinfo: str) -> list[Path]:
    """Mount points at or below a directory, the deepest first (proc(5): field 5, blanks as octal escapes)."""
    real = folder.resolve()
    points = [Path(_unescaped(line.split()[4])) for line in mountinfo.splitlines()]
    return sorted((point for point in points if point.is_relative_to(real)), reverse=True)


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
