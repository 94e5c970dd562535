"""What the kernel says of processes: whose children they are, what they were started as, and whether they still run."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that it has started; none once it is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


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
