"""A process that cannot be killed, made with the kernel's own means: the freezer of cgroup version 1.

A process that is frozen there takes no signal, SIGKILL included, until it is thawed: as one does that the kernel waits
for a disk with. Version 2 lets frozen processes be killed, so a hierarchy of version 1 is mounted where there is none.
"""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

USUAL = Path("/sys/fs/cgroup/freezer")
TIMEOUT_S = 10.0
_LOOK_S = 0.02  # the freezer announces nothing


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process does not end for as long as the block runs, whatever it is sent. Needs root."""
    with _hierarchy() as root:
        group = root / f"malbox-{uuid4().hex[:8]}"
        group.mkdir()
        try:
            (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
            (group / "freezer.state").write_text("FROZEN", encoding="ascii")
            _until(group, "FROZEN")
            yield
        finally:
            (group / "freezer.state").write_text("THAWED", encoding="ascii")
            _until_empty(group, root)
            group.rmdir()


@contextlib.contextmanager
def _hierarchy() -> Iterator[Path]:
    if (USUAL / "tasks").exists():
        yield USUAL
        return
    with tempfile.TemporaryDirectory(prefix="freezer-") as place:
        argv = ["mount", "-t", "cgroup", "-o", "freezer", "freezer", place]
        subprocess.run(argv, check=True, timeout=TIMEOUT_S, capture_output=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True, timeout=TIMEOUT_S, capture_output=True)


def _until(group: Path, state: str) -> None:
    give_up_at = time.monotonic() + TIMEOUT_S
    while (group / "freezer.state").read_text(encoding="ascii").strip() != state:
        assert time.monotonic() < give_up_at, f"the process was never {state}"
        time.sleep(_LOOK_S)


def _until_empty(group: Path, root: Path) -> None:
    """What was sent meanwhile takes effect; what survives goes back to where it was."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while pids := (group / "cgroup.procs").read_text(encoding="ascii").split():
        for pid in pids:
            with contextlib.suppress(OSError):
                (root / "cgroup.procs").write_text(pid, encoding="ascii")
        assert time.monotonic() < give_up_at, f"processes {pids} stayed in the freezer"
        time.sleep(_LOOK_S)


def is_frozen(pid: int) -> bool:
    """Whether the kernel says that the process waits in a way that nothing ends."""
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "D"
    return False
