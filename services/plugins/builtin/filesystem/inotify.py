"""The kernel's notices of changes below some directories, as far as its limits and ours go (inotify(7))."""

import ctypes
import os
import select
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

EVENTS = {
    0x004: "attributes_changed",
    0x008: "written",
    0x040: "moved_from",
    0x080: "moved_to",
    0x100: "created",
    0x200: "deleted",
}
_ALL = sum(EVENTS)
_OVERFLOWED, _IS_DIRECTORY, _ONLY_DIRECTORY, _NO_FOLLOW = 0x4000, 0x40000000, 0x01000000, 0x02000000
_HEADER = struct.Struct("iIII")
_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_READ_BYTES = 64 * 1024
WATCHES_MAX = 2000
DEPTH_MAX = 12


@dataclass(frozen=True)
class Notice:
    """Something happened to the path; `lost`: the kernel had no room for more, and some are missing."""

    event: str
    path: bytes = b""
    is_directory: bool = False


class Notices:
    """Raises OSError where the kernel gives none."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._must(self._libc.inotify_init1(_NONBLOCK | _CLOEXEC))
        self._paths: dict[int, bytes] = {}
        self.is_incomplete = False

    def watch(self, root: bytes, depth: int = 0) -> Iterator[Notice]:
        """The directory and all below are watched, once this is iterated; what is there already is told as created."""
        if len(self._paths) >= WATCHES_MAX or depth > DEPTH_MAX:
            self.is_incomplete = True
            return
        number = self._libc.inotify_add_watch(self._descriptor, root, _ALL | _ONLY_DIRECTORY | _NO_FOLLOW)
        if number < 0:  # it is not there, or is no directory, or nobody's
            return
        self._paths[number] = root
        for path, is_directory in _children(root):
            yield Notice("created", path, is_directory)
            if is_directory:
                yield from self.watch(path, depth + 1)

    def read(self, *, timeout_s: float) -> list[Notice]:
        """What happened since the last call; waits that long for the first of it."""
        ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
        found: list[Notice] = []
        for notice in self._pending() if ready else ():
            found.append(notice)
            if notice.is_directory and notice.event in ("created", "moved_to"):
                found += self.watch(notice.path)
        return found

    def _pending(self) -> Iterator[Notice]:
        try:
            content = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        place = 0
        while place < len(content):
            number, mask, _cookie, length = _HEADER.unpack_from(content, place)
            name = content[place + _HEADER.size : place + _HEADER.size + length].rstrip(b"\0")
            place += _HEADER.size + length
            if mask & _OVERFLOWED:
                yield Notice("lost")
            elif number in self._paths and name:
                path = os.path.join(self._paths[number], name)  # noqa: PTH118 - bytes, as the kernel has them
                for bit, event in EVENTS.items():
                    if mask & bit:
                        yield Notice(event, path, bool(mask & _IS_DIRECTORY))

    def _must(self, outcome: int) -> int:
        if outcome < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return outcome


def _children(folder: bytes) -> list[tuple[bytes, bool]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.path, stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode)) for entry in entries]
    except OSError:
        return []
