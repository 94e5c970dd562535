"""The files of one machine on this host. A directory appears under its final name only when it is whole.

<machines>/<id>/fence         the latest epoch that anything acted for, and the latest claim of its work
                warm/         the warm snapshot: disk, memory image, an empty overlay, what is known of them
                building-<…>/ a warm snapshot being made; thrown away by whoever finds it
                life-<…>/     the overlay of one incarnation

<…> is whose it is: <epoch>-<work>-<attempt>, or <epoch> alone of whoever acted under no claim (`fenced_emulator`).
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from services.chassis.crash_points import Point, reached
from services.machines.adapters.host_fence import sync_directory
from services.machines.adapters.kept_files import KeptFile, Snapshot, write_durably
from services.machines.domain.fence import Claim
from services.machines.errors import HypervisorRefused, HypervisorUnavailable

DISK = "disk.qcow2"
EMPTY = "empty.qcow2"
MEMORY = "memory.save"
ENROLMENT = "enrolment"
VARIABLES = "variables.fd"
CONSOLE = "console.log"
_SNAPSHOT = "snapshot.json"
_QEMU_IMG_TIMEOUT_S = 30


class MachineFiles:
    """Names, makes and removes the files of one machine."""

    def __init__(self, machines_dir: Path, machine_id: str) -> None:
        self.directory = machines_dir / machine_id
        self.warm = self.directory / "warm"

    def building(self, epoch: int, claim: Claim | None = None) -> Path:
        """Where the warm snapshot of an epoch is made, under that claim."""
        return self.directory / f"building-{_owner(epoch, claim)}"

    def life(self, epoch: int, claim: Claim | None = None) -> Path:
        """Where the incarnation of an epoch has its overlay, when it was restored under that claim."""
        return self.directory / f"life-{_owner(epoch, claim)}"

    def life_of(self, epoch: int) -> Path:
        """Where the incarnation of an epoch has its overlay, whoever restored it: the latest, where there are more."""
        named = re.compile(rf"life-{epoch}-([0-9]+)-([0-9]+)")
        claims = [Claim(int(found[1]), int(found[2])) for one in self.lives() if (found := named.fullmatch(one.name))]
        return self.life(epoch, max(claims, default=None))

    def begin(self, directory: Path, *, backing: Path) -> Path:
        """`directory` holds nothing but a fresh overlay on `backing`; the overlay's path."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        overlay, empty = directory / DISK, backing.with_name(EMPTY)
        if empty.exists():
            overlay.touch(mode=0o600)
            overlay.write_bytes(empty.read_bytes())
        else:
            _qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(backing), str(overlay))
        return overlay

    def prepare_overlay(self, building: Path) -> None:
        """The snapshot being made has an empty overlay on the disk that it is about to publish: a life copies it."""
        empty = building / EMPTY
        _qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(building / DISK), str(empty))
        _qemu_img("rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(self.warm / DISK), str(empty))

    def lives(self) -> list[Path]:
        """Every incarnation that has files."""
        return sorted(self.directory.glob("life-*"))

    def begin_variables(self, directory: Path, *, like: Path) -> Path:
        """`directory` holds the firmware's variables as they are in that file; their path. Raises HypervisorRefused."""
        variables = directory / VARIABLES
        try:
            variables.touch(mode=0o600)
            variables.write_bytes(like.read_bytes())
        except OSError as error:
            raise HypervisorRefused(f"the firmware's variables cannot be had from {like}: {error.strerror}") from error
        return variables

    def discard_lives(self, *, but: Path | None = None) -> list[str]:
        """No incarnation and no half-made snapshot is left, except that one; the names of what was."""
        doomed = [one for pattern in ("life-*", "building-*") for one in self.directory.glob(pattern) if one != but]
        for one in doomed:
            _remove(one)
        return sorted(one.name for one in doomed)

    def discard_warm(self) -> None:
        """There is no warm snapshot."""
        if self.warm.exists():
            # Renamed first: a removal that is cut short must not leave something that looks like a snapshot.
            doomed = self.directory / "building-discarded"
            _remove(doomed)
            self.warm.rename(doomed)
            _remove(doomed)

    def publish(
        self, building: Path, *, epoch: int, accelerator: str, domain_identity: str, image: Iterable[Path]
    ) -> Snapshot:
        """The half-made snapshot is the warm snapshot, digested and on disk, together with its image's files."""
        (building / CONSOLE).unlink(missing_ok=True)
        members = [name for name in (DISK, MEMORY, ENROLMENT, VARIABLES, EMPTY) if (building / name).exists()]
        for member in members:
            (building / member).chmod(0o400)
            reached(Point.SNAPSHOT_BEFORE)
            _sync_file(building / member)
        snapshot = Snapshot(
            epoch=epoch,
            accelerator=accelerator,
            domain_identity=domain_identity,
            files={
                **{f"warm {member}": KeptFile.of(building / member, known_as=self.warm / member) for member in members},
                **{f"image {path.name}": KeptFile.of(path) for path in image},
            },
            digested_at_s=time.time(),
        )
        write_durably(building / _SNAPSHOT, snapshot.model_dump_json(indent=2))
        self.discard_warm()
        building.rename(self.warm)
        sync_directory(self.directory)
        reached(Point.SNAPSHOT_AFTER)
        return snapshot

    def snapshot(self, *, is_hurried: bool = False) -> Snapshot:
        """The warm snapshot, its files and its image's holding the bytes that were recorded.

        Raises DigestMismatch when they do not, HypervisorRefused when there is no snapshot.
        """
        try:
            recorded = Snapshot.model_validate_json((self.warm / _SNAPSHOT).read_bytes())
        except (OSError, ValidationError) as error:
            raise HypervisorRefused(f"{self.directory.name} has no warm snapshot: {error}") from error
        checked = recorded.checked(time.time(), is_hurried=is_hurried)
        if checked != recorded:
            write_durably(self.warm / _SNAPSHOT, checked.model_dump_json(indent=2))
        return checked


def _owner(epoch: int, claim: Claim | None) -> str:
    return f"{epoch}" if claim is None else f"{epoch}-{claim.work}-{claim.attempt}"


def _qemu_img(*arguments: str) -> None:
    try:
        subprocess.run(
            ["qemu-img", *arguments], check=True, capture_output=True, timeout=_QEMU_IMG_TIMEOUT_S, text=True
        )
    except subprocess.CalledProcessError as error:
        raise HypervisorUnavailable(f"qemu-img {arguments[0]}: {str(error.stderr)[-500:].strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HypervisorUnavailable(f"qemu-img {arguments[0]}: {error}") from error


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise HypervisorUnavailable(f"{path} cannot be removed: {error}") from error


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
