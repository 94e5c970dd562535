"""Copies of files, made while they are there, within bounds; and a count of what the bounds or their end cost."""

import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

COPIES_MAX = 256
COPY_MAX_BYTES = 4 * 1024 * 1024
COPIES_MAX_BYTES = 32 * 1024 * 1024  # made over the whole run: whoever writes one file again and again costs no more
HANDED_OUT_MAX_BYTES = 24 * 1024 * 1024
MISSED_MAX = 10_000

Identity = tuple[int, int, int]
"""Tells whether a path leads to the same bytes: device, inode, time of the last change."""


@dataclass(frozen=True)
class Copy:
    """What the path led to then; `missing_bytes` of it are not in the copy."""

    path: bytes
    file: Path
    identity: Identity
    missing_bytes: int


@dataclass(frozen=True)
class Missed:
    """What was not copied of the path's file, and why; `identity` is None where there was no file any more."""

    why: str
    size_bytes: int
    identity: Identity | None


@dataclass
class Tally:
    """How much was not kept for one reason. A file that went before it could be read has no known size."""

    limit: int | None
    files: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """One more file."""
        self.files += 1
        self.size_bytes += size_bytes


class Copies:
    """The copies of one run, in its scratch directory."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._copies: dict[bytes, Copy] = {}
        self._missed: dict[bytes, Missed] = {}
        self._numbers = itertools.count()
        self._copied_bytes = 0
        self._tallies: dict[str, Tally] = {}

    def take(self, path: bytes) -> None:
        """The file is copied as it is now, or is among those that were missed. What is empty or no file is neither."""
        try:
            facts = os.lstat(path)
        except OSError:
            if path not in self._copies:
                self._miss(path, Missed("gone", 0, None))
            return
        if not stat.S_ISREG(facts.st_mode):
            return
        try:
            file = _opened(path)
            if file is None:
                return
            with file:
                facts = os.fstat(file.fileno())
                size = min(facts.st_size, COPY_MAX_BYTES)
                if not size:
                    return
                why = self._bound(path, size)
                content = b"" if why else file.read(size)
        except OSError:
            self._miss(path, Missed("unreadable", facts.st_size, _identity(facts)))
            return
        if why:
            self._miss(path, Missed(why, facts.st_size, _identity(facts)))
        elif content:
            self._keep(path, content, facts)

    def moved(self, path: bytes) -> None:
        """The file went on under another name: it was not missed under this one."""
        self._missed.pop(path, None)

    def transient(self, files_max: int) -> Iterator[Copy]:
        """The copies whose originals did not last, as far as the bounds go. The others are counted."""
        files, size_bytes = 0, 0
        for copy in self._copies.values():
            if _identity_now(copy.path) == copy.identity:
                continue
            size = copy.file.stat().st_size
            if files >= files_max:
                self._count("files_handed_out", files_max, size)
            elif size_bytes + size > HANDED_OUT_MAX_BYTES:
                self._count("bytes_handed_out", HANDED_OUT_MAX_BYTES, size)
            else:
                files, size_bytes = files + 1, size_bytes + size
                yield copy

    def not_kept(self) -> list[dict[str, object]]:
        """For each reason: how many files that did not last are missing, or a part of them, and how many bytes.

        `why` is one of: files_copied, bytes_copied, file_bytes (only the first are copied), unreadable, no_room (on the
        machine's disk), gone (before it could be read), files_handed_out, bytes_handed_out, files_told_apart (beyond
        it, each time counts as a file).
        """
        limits = {"files_copied": COPIES_MAX, "bytes_copied": COPIES_MAX_BYTES, "file_bytes": COPY_MAX_BYTES}
        for path, missed in self._missed.items():
            if missed.identity is None or _identity_now(path) != missed.identity:
                self._count(missed.why, limits.get(missed.why), missed.size_bytes)
        return [
            {"why": why, "limit": tally.limit, "files": tally.files, "bytes": tally.size_bytes}
            for why, tally in sorted(self._tallies.items())
        ]

    def _bound(self, path: bytes, size: int) -> str:
        """The bound that a copy of so many bytes would be over, if any."""
        if path not in self._copies and len(self._copies) >= COPIES_MAX:
            return "files_copied"
        return "bytes_copied" if self._copied_bytes + size > COPIES_MAX_BYTES else ""

    def _keep(self, path: bytes, content: bytes, facts: os.stat_result) -> None:
        unfinished = self._scratch / "unfinished"
        try:
            unfinished.write_bytes(content)
        except OSError:
            unfinished.unlink(missing_ok=True)
            self._miss(path, Missed("no_room", facts.st_size, _identity(facts)))
            return
        known = self._copies.pop(path, None)
        file = known.file if known is not None else self._scratch / f"{next(self._numbers):03d}"
        unfinished.replace(file)
        self._copied_bytes += len(content)
        missing = max(0, facts.st_size - COPY_MAX_BYTES)
        self._copies[path] = Copy(path, file, _identity(facts), missing)
        self._missed.pop(path, None)
        if missing:
            self._miss(path, Missed("file_bytes", missing, _identity(facts)))

    def _miss(self, path: bytes, missed: Missed) -> None:
        if path in self._missed or len(self._missed) < MISSED_MAX:
            self._missed[path] = missed
        else:
            self._count("files_told_apart", MISSED_MAX, missed.size_bytes)

    def _count(self, why: str, limit: int | None, size_bytes: int) -> None:
        self._tallies.setdefault(why, Tally(limit)).add(size_bytes)


def _opened(path: bytes) -> BinaryIO | None:
    """The file, or None where no regular one stands by now. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def _identity(facts: os.stat_result) -> Identity:
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns


def _identity_now(path: bytes) -> Identity | None:
    """None where the path leads nowhere."""
    try:
        return _identity(os.lstat(path))
    except OSError:
        return None
