"""What an image is: packages, hashes, what it can be booted with. Written by the build, checked by `verify`."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from guest.images.errors import ImageDamaged

MANIFEST = "manifest.json"
DISK = "disk.qcow2"
KERNEL = "vmlinuz"
INITRD = "initrd.img"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """One built image. Hashes are sha256, hexadecimal; packages map names to versions."""

    name: str
    platform: str
    arch: str
    recipe_hash: str
    disk_sha256: str
    kernel_sha256: str
    initrd_sha256: str
    kernel_arguments: list[str]
    disk_buses: list[str]
    firmwares: list[str]
    user: str
    packages: dict[str, str]
    python_packages: dict[str, str]
    format: int = FORMAT


def write(folder: Path, manifest: Manifest) -> None:
    """The manifest stands in the image's folder."""
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """The manifest of a built image. Raises ImageDamaged when there is none that this version reads."""
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ImageDamaged(f"{folder.name}: no readable manifest: {error}") from error
    if manifest.format != FORMAT:
        raise ImageDamaged(f"{folder.name}: manifest of format {manifest.format}, expected {FORMAT}")
    return manifest


def verify(folder: Path) -> Manifest:
    """Every file of the image has the hash that its manifest says. Raises ImageDamaged."""
    manifest = read(folder)
    said = {DISK: manifest.disk_sha256, KERNEL: manifest.kernel_sha256, INITRD: manifest.initrd_sha256}
    for name, sha256 in said.items():
        try:
            actual = sha256_of(folder / name)
        except OSError as error:
            raise ImageDamaged(f"{folder.name}: {name}: {error.strerror}") from error
        if actual != sha256:
            raise ImageDamaged(f"{folder.name}: {name} has sha256 {actual}, its manifest says {sha256}")
    return manifest


def sha256_of(path: Path) -> str:
    """The file's sha256 in hexadecimal, in constant memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
