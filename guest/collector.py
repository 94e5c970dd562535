"""Files that the sample wrote: found by their change time below the watched directories, streamed with their hash.

A change time cannot be set back by a user, unlike a modification time. Symbolic links are never followed, and what is
not a regular file is never opened. Runs when the process tree is gone, so nothing changes under its hands.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contracts.guest import agent_pb2 as pb
from guest import limits
from guest.platforms import DeletedFile

Identity = tuple[int, int, int]


@dataclass(frozen=True)
class FoundFile:
    """A file to hand over: where its bytes are, and the path to show."""

    location: bytes
    path: bytes
    is_deleted: bool = False
    is_truncated: bool = False


@dataclass(frozen=True)
class Findings:
    """What is handed over, and how many files were found beyond that."""

    files: tuple[FoundFile, ...] = ()
    omitted: int = 0


def identity_of(path: Path) -> Identity:
    """Tells whether a file changed: device, inode, and change time in ns."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_ctime_ns


def find_written(roots: list[Path], *, since_ns: int, unchanged: set[Identity], deleted: list[DeletedFile]) -> Findings:
    """Every regular file below the roots that changed since, and the rescued ones, up to the limit."""
    found: dict[tuple[int, int], FoundFile] = {}
    for root in roots:
        for path, facts in _walk(os.fsencode(root)):
            identity = (facts.st_dev, facts.st_ino, facts.st_ctime_ns)
            if facts.st_ctime_ns >= since_ns and identity not in unchanged:
                found.setdefault(identity[:2], FoundFile(path, path))
    rescued = [FoundFile(os.fsencode(one.copy), one.path, True, one.is_truncated) for one in deleted]  # noqa: FBT003
    everything = [*rescued, *found.values()]
    return Findings(tuple(everything[: limits.FILES_MAX]), max(0, len(everything) - limits.FILES_MAX))


def hand_over(findings: Findings) -> Iterator[pb.CollectFrame]:
    """The frames of every file, then the end. A file that cannot be read is counted as omitted."""
    sent, omitted = 0, findings.omitted
    for found in findings.files:
        try:
            descriptor = os.open(found.location, os.O_RDONLY | _NO_FOLLOW)
        except OSError:
            omitted += 1
            continue
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                omitted += 1
                continue
            start = pb.FileStart(path=found.path, size_bytes=size, is_deleted=found.is_deleted)
            yield pb.CollectFrame(start=start)
            digest, count = hashlib.sha256(), 0
            while piece := file.read(min(limits.PIECE_BYTES, limits.FILE_MAX_BYTES - count)):
                digest.update(piece)
                count += len(piece)
                yield pb.CollectFrame(piece=piece)
            is_truncated = found.is_truncated or size > count
            yield pb.CollectFrame(end=pb.FileEnd(size_bytes=count, sha256=digest.digest(), is_truncated=is_truncated))
            sent += 1
    yield pb.CollectFrame(done=pb.CollectEnd(files=sent, omitted=omitted))


_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Regular files below a directory with what stat says; bounded in entries and depth."""
    stack, seen = [(root, 0)], 0
    while stack:
        folder, depth = stack.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > limits.WALK_ENTRIES_MAX:
                return
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(facts.st_mode) and depth < limits.WALK_DEPTH_MAX:
                stack.append((entry.path, depth + 1))
            elif stat.S_ISREG(facts.st_mode):
                yield entry.path, facts
