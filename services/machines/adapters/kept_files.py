"""Files that must keep their bytes: digested once, then known by what a look at them shows, and read again in doubt."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from services.chassis.crash_points import Point, reached
from services.machines.adapters.built_image import sha256_of
from services.machines.adapters.host_fence import sync_directory
from services.machines.errors import DigestMismatch

FULL_DIGEST_INTERVAL_S = 24 * 3600.0


class FileIdentity(BaseModel):
    """Enough to see, without reading it, that a file is still the one that was digested.

    The instant of the last change of the inode is in it: no call sets that, so bytes cannot change behind it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileIdentity":
        """The file's identity now. Raises OSError."""
        found = path.stat()
        return cls(
            inode=found.st_ino,
            size_bytes=found.st_size,
            modified_ns=found.st_mtime_ns,
            changed_ns=found.st_ctime_ns,
        )


class KeptFile(BaseModel):
    """One file with the bytes that it must have (sha256, hexadecimal)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    sha256: str
    identity: FileIdentity

    @classmethod
    def of(cls, path: Path, *, known_as: Path | None = None) -> "KeptFile":
        """The file as it is now, under the path that it is about to have. Raises OSError."""
        identity = FileIdentity.of(path)  # before it is read: what changes meanwhile is seen the next time
        return cls(path=known_as or path, sha256=sha256_of(path), identity=identity)

    def checked(self, *, is_read: bool) -> "KeptFile":
        """The same with its present identity; read if that is another one. Raises DigestMismatch, OSError."""
        now = FileIdentity.of(self.path)
        if now == self.identity and not is_read:
            return self
        if (found := sha256_of(self.path)) != self.sha256:
            raise DigestMismatch(f"has sha256 {found}, recorded is {self.sha256}")
        return self.model_copy(update={"identity": now})


class Snapshot(BaseModel):
    """What is known of a warm snapshot, and of the image below it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    accelerator: str
    domain_identity: str
    files: dict[str, KeptFile]
    digested_at_s: float

    def checked(self, now_s: float, *, is_hurried: bool = False) -> "Snapshot":
        """The same, every file holding the bytes that were recorded. Raises DigestMismatch, saying what to do.

        A file that was touched is read; once a day every one is, but not while a lease waits.
        """
        is_due = not (is_hurried or 0 <= now_s - self.digested_at_s < FULL_DIGEST_INTERVAL_S)
        files: dict[str, KeptFile] = {}
        faults = []
        for name, kept in self.files.items():
            try:
                files[name] = kept.checked(is_read=is_due)
            except DigestMismatch as fault:
                faults.append(f"{name} {fault}")
            except OSError as fault:
                faults.append(f"{name} cannot be read: {fault.strerror}")
        if faults:
            raise DigestMismatch(
                f"changed since it was recorded: {'; '.join(faults)}. Find out who did that; put the image right "
                "(build it again) if it is the image's, then rebuild the machine"
            )
        return self.model_copy(update={"files": files, "digested_at_s": now_s if is_due else self.digested_at_s})


def write_durably(path: Path, content: str) -> None:
    """The file holds the content, whole or not at all, on disk."""
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        reached(Point.RECORD_BEFORE)
        os.fsync(stream.fileno())
    unfinished.rename(path)
    sync_directory(path.parent)
    reached(Point.RECORD_AFTER)
