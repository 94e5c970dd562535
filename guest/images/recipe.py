"""The recipes, as data. Whatever changes a recipe changes its hash, and a changed hash means a new build.

The base (packages and users) is hashed apart from the agent, so that a new agent costs seconds, not a bootstrap.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guest.images.errors import ImageError

FILES = Path(__file__).parent / "files"
AGENT_PACKAGES = ("guest", "contracts/guest")
AGENT_REQUIREMENTS = ("grpcio", "protobuf", "typing-extensions")
_FORMAT = "3"


@dataclass(frozen=True)
class Recipe:
    """What goes into one image. `disk_gib` is what the guest sees; the file is as large as its content."""

    name: str
    suite: str
    packages: tuple[str, ...]
    initrd_modules: tuple[str, ...]
    excluded_paths: tuple[str, ...]
    hostname: str
    user: str
    disk_gib: int
    kernel_arguments: tuple[str, ...]
    disk_buses: tuple[str, ...]
    firmwares: tuple[str, ...]


LINUX = Recipe(
    name="linux",
    suite="bookworm",
    packages=(
        "linux-image-cloud-amd64",  # the kernel for virtual machines: a tenth of the modules, boots faster
        "tiny-initramfs",  # an initial ramdisk without udev: 6 s less per boot under emulation
        "kmod",
        "mount",
        "tini",  # first process: reaps orphans, ends with the agent
        "python3",
        "libstdc++6",  # for grpcio's wheel
        "strace",
        "iproute2",
        "procps",
        # what samples expect to find
        "bash",
        "ca-certificates",
        "cron",
        "curl",
        "netcat-openbsd",
        "wget",
    ),
    initrd_modules=("virtio_pci", "virtio_blk"),
    excluded_paths=(
        "/usr/share/doc/*",
        "/usr/share/man/*",
        "/usr/share/info/*",
        "/usr/share/locale/*",
    ),
    hostname="workstation",
    user="sample",
    disk_gib=4,
    kernel_arguments=(
        "rw",
        "rootfstype=ext4",
        "init=/opt/malbox/init",
        "console=ttyS0",
        "quiet",
        "panic=-1",
        "net.ifnames=0",
        "mitigations=off",  # a guest defends nothing in itself, and each of them costs time under emulation
        "cryptomgr.notests",
    ),
    disk_buses=("virtio",),  # the cloud kernel has no AHCI driver
    firmwares=("bios", "efi"),
)
RECIPES = {recipe.name: recipe for recipe in (LINUX,)}


def base_hash(recipe: Recipe) -> str:
    """sha256 of everything the base depends on."""
    return hashlib.sha256(f"{_FORMAT}\n{recipe!r}".encode()).hexdigest()


def recipe_hash(recipe: Recipe, source: Path, lock: Path) -> str:
    """sha256 of everything the image depends on: base, first process, agent, the agent's locked dependencies."""
    digest = hashlib.sha256(base_hash(recipe).encode())
    digest.update("".join(agent_requirements(lock)).encode())
    digest.update((FILES / "init").read_bytes())
    for path in agent_files(source):
        digest.update(f"{path.relative_to(source)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def agent_files(source: Path) -> Iterator[Path]:
    """Every file of the checkout at `source` that travels into a guest, in a fixed order."""
    for package in AGENT_PACKAGES:
        for path in sorted((source / package).rglob("*")):
            inside = path.relative_to(source)
            if path.is_file() and "__pycache__" not in inside.parts and inside.parts[:2] != ("guest", "images"):
                yield path


def agent_requirements(lock: Path) -> list[str]:
    """The lines of the lock file that pin what the agent imports, with their hashes. Raises ImageError."""
    blocks: dict[str, list[str]] = {}
    name = ""
    for line in lock.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            name = line.partition("==")[0].partition("[")[0].strip()
        if name in AGENT_REQUIREMENTS and not line.startswith("#"):
            blocks.setdefault(name, []).append(line)
    missing = set(AGENT_REQUIREMENTS) - set(blocks)
    if missing:
        raise ImageError(f"{lock.name} does not pin {', '.join(sorted(missing))}")
    return [line for wanted in AGENT_REQUIREMENTS for line in blocks[wanted]]
