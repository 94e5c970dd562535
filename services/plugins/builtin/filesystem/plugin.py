"""What happens to files while the sample runs, and the bytes of those that are gone when it ends.

The agent hands out files that are there at the end. One that is written, run and deleted is not: so each that is closed
after it was written is copied at once, and the copy is handed out when its original did not last.
"""

import os
import stat
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from malbox.sdk.guest import GuestPlugin, PluginFailure

from .inotify import Notice, Notices

LOOK_S = 0.2
RECORDS_MAX = 10_000
COPIES_MAX = 256
COPY_MAX_BYTES = 4 * 1024 * 1024
COPIES_MAX_BYTES = 32 * 1024 * 1024
EMITTED_MAX_BYTES = 24 * 1024 * 1024
LOOKS_AFTER_FLUSH = 20  # then it is somebody else who goes on


class Filesystem(GuestPlugin):
    """Two threads: one reads what the kernel says, the other answers the agent."""

    def initialize(self, config: dict[str, Any]) -> None:
        """The directories are watched; what they hold already is nothing new."""
        self._files_max = config["files_max"]
        self._is_over = threading.Event()
        self._records = 0
        self._copies: dict[bytes, tuple[Path, tuple[int, int, int]]] = {}
        self._copied_bytes = 0
        try:
            self._notices = Notices()
        except OSError as error:
            raise PluginFailure(f"the kernel tells of no changes: {error.strerror}") from error
        for directory in config["directories"]:
            deque(self._notices.watch(os.fsencode(directory)), maxlen=0)

    def arm(self) -> None:
        """What happens from now on is recorded."""
        self._began_at = time.monotonic()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def flush(self) -> None:
        """Everything that happened is recorded, and files that did not last are handed out."""
        self._is_over.set()
        self._reader.join()
        if self._notices.is_incomplete:
            self.emit("filesystem", {"event": "not_everything_was_watched"})
        kept, size_bytes = 0, 0
        for path, (copy, identity) in self._copies.items():
            size_bytes += copy.stat().st_size
            if _identity(path) != identity and kept < self._files_max and size_bytes <= EMITTED_MAX_BYTES:
                name = f"transient/{kept:03d}"
                self.emit_file(name, copy)
                self.emit("filesystem", {"event": "kept", "path": _shown(path), "result": name})
                kept += 1

    def _read(self) -> None:
        left = LOOKS_AFTER_FLUSH
        while left > 0:
            notices = self._notices.read(timeout_s=LOOK_S)
            if self._is_over.is_set():
                left = left - 1 if notices else 0
            for notice in notices:
                self._take(notice)

    def _take(self, notice: Notice) -> None:
        if notice.event in ("written", "moved_to", "created") and not notice.is_directory:
            self._copy(notice.path)
        self._records += 1
        if self._records > RECORDS_MAX:
            return
        at_ms = int((time.monotonic() - self._began_at) * 1000)
        self.emit("filesystem", {"at_ms": at_ms, "event": notice.event, "path": _shown(notice.path),
                                 "is_directory": notice.is_directory})  # fmt: skip
        if self._records == RECORDS_MAX:
            self.emit("filesystem", {"event": "no_more_is_recorded"})

    def _copy(self, path: bytes) -> None:
        """The file as it is now, unless it is none, or there is no room."""
        identity = _identity(path)
        if identity is None or len(self._copies) >= COPIES_MAX:
            return
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return
            content = file.read(COPY_MAX_BYTES)
        self._copied_bytes += len(content)
        if content and self._copied_bytes <= COPIES_MAX_BYTES:
            copy = self._copies[path][0] if path in self._copies else self.scratch / f"{len(self._copies):03d}"
            copy.write_bytes(content)
            self._copies[path] = copy, identity


def _identity(path: bytes) -> tuple[int, int, int] | None:
    """Tells whether a path leads to the same bytes; None when it leads nowhere."""
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
