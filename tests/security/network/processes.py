"""What the kernel says of processes: whose children they are, what they were started as, and whether they still run."""

from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that it has started, in whichever thread; none once it is gone."""
    tasks: list[Path] = []
    with suppress(OSError):
        tasks = sorted(Path(f"/proc/{pid}/task").iterdir())
    return [int(word) for task in tasks for word in text_of(task / "children").split()]


def open_files(pid: int) -> set[str]:
    """Where its descriptors lead; what it closes meanwhile is left out, and nothing is open once it is gone."""
    held: set[str] = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                held.add(str(entry.readlink()))
    return held


def text_of(file: Path) -> str:
    """What it says; nothing once its process is gone."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def words(pid: int) -> bytes:
    """Its command line, a NUL behind each word; nothing once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def status(pid: int) -> dict[str, str]:
    """The fields of its status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def descendants(pid: int) -> list[int]:
    """The processes that it has started, and those that these have; none once it is gone."""
    below = children(pid)
    return [*below, *(further for child in below for further in descendants(child))]


def runs(pid: int) -> bool:
    """Whether it has not ended, be it mourned or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
