"""The files of one machine on this host. A directory appears under its final name only when it is whole.

<machines>/<id>/fence              highest epoch that anything acted for
                warm/              the warm snapshot: disk, memory image, what is known of them
                building-<epoch>/  a warm snapshot being made; thrown away by whoever finds it
                life-<epoch>/      the overlay of one incarnation
"""

import os
import shutil
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from services.machines.adapters.built_image import sha256_of
from services.machines.adapters.host_fence import sync_directory
from services.machines.errors import HypervisorRefused, HypervisorUnavailable

DISK = "disk.qcow2"
MEMORY = "memory.save"
ENROLMENT = "enrolment"
CONSOLE = "console.log"
_SNAPSHOT = "snapshot.json"
_QEMU_IMG_TIMEOUT_S = 30


class FileIdentity(BaseModel):
    """Enough to see, without reading it, that a file is still the one that was digested."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inode: int
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileIdentity":
        """The file's identity now."""
        found = path.stat()
        return cls(inode=found.st_ino, size_bytes=found.st_size, modified_ns=found.st_mtime_ns)


class Snapshot(BaseModel):
    """What is known of a warm snapshot. Digests are sha256, hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    accelerator: str
    domain_identity: str
    image_disk: Path
    digests: dict[str, str]
    identities: dict[str, FileIdentity]


class MachineFiles:
    """Names, makes and removes the files of one machine."""

    def __init__(self, machines_dir: Path, machine_id: str) -> None:
        self.directory = machines_dir / machine_id
        self.warm = self.directory / "warm"

    def building(self, epoch: int) -> Path:
        """Where the warm snapshot of an epoch is made."""
        return self.directory / f"building-{epoch}"

    def life(self, epoch: int) -> Path:
        """Where the incarnation of an epoch has its overlay."""
        return self.directory / f"life-{epoch}"

    def begin(self, directory: Path, *, backing: Path) -> Path:
        """`directory` holds nothing but a fresh overlay on `backing`; the overlay's path."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        overlay = directory / DISK
        _qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(backing), str(overlay))
        return overlay

    def discard_lives(self) -> None:
        """No incarnation and no half-made snapshot is left."""
        for pattern in ("life-*", "building-*"):
            for directory in self.directory.glob(pattern):
                _remove(directory)

    def discard_warm(self) -> None:
        """There is no warm snapshot."""
        if self.warm.exists():
            # Renamed first: a removal that is cut short must not leave something that looks like a snapshot.
            doomed = self.directory / "building-discarded"
            _remove(doomed)
            self.warm.rename(doomed)
            _remove(doomed)

    def publish(
        self, building: Path, *, epoch: int, accelerator: str, domain_identity: str, image_disk: Path
    ) -> Snapshot:
        """The half-made snapshot is the warm snapshot, digested and on disk."""
        (building / CONSOLE).unlink(missing_ok=True)
        members = (DISK, MEMORY, ENROLMENT)
        for member in members:
            (building / member).chmod(0o400)
            _sync_file(building / member)
        snapshot = Snapshot(
            epoch=epoch,
            accelerator=accelerator,
            domain_identity=domain_identity,
            image_disk=image_disk,
            digests={member: sha256_of(building / member) for member in members if member != ENROLMENT},
            identities={
                **{member: FileIdentity.of(building / member) for member in members},
                "image": FileIdentity.of(image_disk),
            },
        )
        (building / _SNAPSHOT).write_text(snapshot.model_dump_json(indent=2), encoding="utf-8")
        _sync_file(building / _SNAPSHOT)
        self.discard_warm()
        building.rename(self.warm)
        sync_directory(self.directory)
        return snapshot

    def snapshot(self) -> Snapshot:
        """The warm snapshot, its files and its image being those that were digested. Raises HypervisorRefused."""
        try:
            snapshot = Snapshot.model_validate_json((self.warm / _SNAPSHOT).read_bytes())
            now = {
                **{member: FileIdentity.of(self.warm / member) for member in (DISK, MEMORY, ENROLMENT)},
                "image": FileIdentity.of(snapshot.image_disk),
            }
        except (OSError, ValidationError) as error:
            raise HypervisorRefused(f"{self.directory.name} has no warm snapshot: {error}") from error
        changed = sorted(name for name, identity in snapshot.identities.items() if now.get(name) != identity)
        if changed:
            raise HypervisorRefused(f"the warm snapshot of {self.directory.name} was changed: {', '.join(changed)}")
        return snapshot


def _qemu_img(*arguments: str) -> None:
    try:
        subprocess.run(
            ["qemu-img", *arguments], check=True, capture_output=True, timeout=_QEMU_IMG_TIMEOUT_S, text=True
        )
    except subprocess.CalledProcessError as error:
        raise HypervisorUnavailable(f"qemu-img {arguments[0]}: {str(error.stderr)[-500:].strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HypervisorUnavailable(f"qemu-img {arguments[0]}: {error}") from error


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HypervisorUnavailable(f"{directory} cannot be removed: {error}") from error


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
