"""A built image as the hypervisor's side sees it: its manifest, and whether its files are what the manifest says."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.ids import Sha256
from contracts.submission import Platform
from services.machines.domain.spec import MachineSpec
from services.machines.errors import DigestMismatch, HypervisorRefused

_MANIFEST = "manifest.json"
_MANIFEST_MAX_BYTES = 1 << 20


class _Manifest(BaseModel):
    """The part of the manifest that booting needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    platform: Platform
    arch: str
    disk_sha256: Sha256
    kernel_sha256: Sha256
    initrd_sha256: Sha256
    kernel_arguments: tuple[str, ...]
    disk_buses: tuple[str, ...]
    firmwares: tuple[str, ...]


class BuiltImage:
    """One image, pinned to the version that stood when it was opened: a later build does not move it."""

    def __init__(self, images_dir: Path, name: str) -> None:
        """Raises HypervisorRefused when there is no such image."""
        if not name or "/" in name or name.startswith("."):
            raise HypervisorRefused(f"{name!r} is no name of an image")
        try:
            self._folder = (images_dir / name).resolve(strict=True)
            with (self._folder / _MANIFEST).open("rb") as stream:
                content = stream.read(_MANIFEST_MAX_BYTES)
            self._manifest = _Manifest.model_validate_json(content)
        except (OSError, ValidationError) as error:
            raise HypervisorRefused(f"there is no built image {name}: {error}") from error
        self.identity = hashlib.sha256(content).hexdigest()
        self.disk = self._folder / "disk.qcow2"
        self.kernel = self._folder / "vmlinuz"
        self.initrd = self._folder / "initrd.img"
        self.kernel_arguments = self._manifest.kernel_arguments
        self.disk_sha256 = self._manifest.disk_sha256

    @property
    def files(self) -> dict[Path, str]:
        """Every file with the sha256 that the manifest says."""
        return {
            self.disk: self._manifest.disk_sha256,
            self.kernel: self._manifest.kernel_sha256,
            self.initrd: self._manifest.initrd_sha256,
        }

    def refuse_unfit(self, spec: MachineSpec) -> None:
        """The image can be what the specification says. Raises HypervisorRefused naming what it cannot."""
        offered = {
            "platform": (spec.platform, (self._manifest.platform,)),
            "arch": (spec.arch, (self._manifest.arch,)),
            "disk_bus": (spec.disk_bus, self._manifest.disk_buses),
            "firmware": (spec.firmware, self._manifest.firmwares),
        }
        for key, (wanted, allowed) in offered.items():
            if wanted not in allowed:
                raise HypervisorRefused(f"{key} {wanted}: image {spec.image} offers {', '.join(allowed)}")

    def refuse_damaged(self) -> None:
        """Every file has the hash that the manifest says. Raises DigestMismatch, HypervisorRefused."""
        for path, sha256 in self.files.items():
            try:
                actual = sha256_of(path)
            except OSError as error:
                raise HypervisorRefused(f"{path.name} of the image cannot be read: {error.strerror}") from error
            if actual != sha256:
                raise DigestMismatch(
                    f"{path.name} of the image has sha256 {actual}, its manifest says {sha256}. Find out who changed "
                    "it, build the image again, then rebuild the machine"
                )


def sha256_of(path: Path) -> str:
    """The file's sha256 in hexadecimal, in constant memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
