"""Looks for marks where a run could leave them: in a process's memory, in files, as raw bytes, from the host.

Nobody's word is asked for: the kernel shows the memory (/proc/<pid>/mem), and blocks that no file name leads to are
bytes of an overlay like all others.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

PIECE_BYTES = 8 * 1024 * 1024


class Marks:
    """Marks of one kind: a start that nothing else has, and 32 hexadecimal digits."""

    def __init__(self, start: bytes) -> None:
        self._start = start
        self._pattern = re.compile(re.escape(start) + b"[0-9a-f]{32}")
        self._overlap_bytes = len(start) + 32

    def in_memory(self, pid: int) -> set[bytes]:
        """Those in everything that the process has mapped. Raises OSError when it has ended."""
        found: set[bytes] = set()
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for start, end in _mappings(pid):
                found |= self._in(_pieces_of_memory(memory, start, end))
        return found

    def in_file(self, path: Path) -> set[bytes]:
        """Those in the file's bytes, whatever its format means by them."""
        with path.open("rb") as stream:
            return self._in(iter(lambda: stream.read(PIECE_BYTES), b""))

    def in_files_below(self, directory: Path) -> set[bytes]:
        """Those in any file below the directory."""
        files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
        return set[bytes]().union(*(self.in_file(path) for path in files))

    def _in(self, pieces: Iterable[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        tail = b""
        for piece in pieces:
            whole = tail + piece
            if self._start in whole:  # much faster than the pattern, and mostly not so
                found.update(self._pattern.findall(whole))
            tail = whole[-self._overlap_bytes :]
        return found


def _mappings(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, rights, *_ = line.split()
        if rights.startswith("r") and not line.endswith(("[vvar]", "[vsyscall]")):
            start, _, end = span.partition("-")
            yield int(start, 16), int(end, 16)


def _pieces_of_memory(memory: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    at = start
    while at < end:
        memory.seek(at)
        try:
            piece = memory.read(min(PIECE_BYTES, end - at))
        except OSError:  # a page that the process itself may not read, such as a guard
            at += PIECE_BYTES
            continue
        if not piece:
            return
        yield piece
        at += len(piece)
