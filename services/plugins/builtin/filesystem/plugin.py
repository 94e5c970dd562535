"""What happens to files while the sample runs, and the bytes of those that are gone when it ends.

The agent hands out files that are there at the end. One that is written, run and deleted is not: so each that is closed
after it was written is copied at once, and the copy is handed out when its original did not last. What is not kept is
counted, for each reason, in the result `not_kept`.
"""

import os
import threading
import time
from collections import deque
from typing import Any

from malbox.sdk.guest import GuestPlugin, PluginFailure

from .copies import Copies
from .inotify import Notice, Notices

LOOK_S = 0.2
RECORDS_MAX = 10_000
LOOKS_AFTER_FLUSH = 20  # then it is somebody else who goes on


class Filesystem(GuestPlugin):
    """Two threads: one reads what the kernel says, the other answers the agent."""

    def initialize(self, config: dict[str, Any]) -> None:
        """The directories are watched; what they hold already is nothing new."""
        self._files_max = config["files_max"]
        self._is_over = threading.Event()
        self._records = 0
        self._copies = Copies(self.scratch)
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
        """Everything that happened is recorded, files that did not last are handed out, and what is missing is told."""
        self._is_over.set()
        self._reader.join()
        if self._records > RECORDS_MAX:
            self.emit("filesystem", {"event": "not_recorded", "changes": self._records - RECORDS_MAX})
        if self._notices.is_incomplete:
            self.emit("filesystem", {"event": "not_everything_was_watched"})
        for number, copy in enumerate(self._copies.transient(self._files_max)):
            name = f"transient/{number:03d}"
            self.emit_file(name, copy.file)
            self.emit("filesystem", {"event": "kept", "path": _shown(copy.path), "result": name,
                                     "missing_bytes": copy.missing_bytes})  # fmt: skip
        for tally in self._copies.not_kept():
            self.emit("not_kept", tally)

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
            self._copies.take(notice.path)
        elif notice.event == "moved_from":
            self._copies.moved(notice.path)
        self._records += 1
        if self._records > RECORDS_MAX:
            return
        at_ms = int((time.monotonic() - self._began_at) * 1000)
        self.emit("filesystem", {"at_ms": at_ms, "event": notice.event, "path": _shown(notice.path),
                                 "is_directory": notice.is_directory})  # fmt: skip
        if self._records == RECORDS_MAX:
            self.emit("filesystem", {"event": "no_more_is_recorded"})


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
