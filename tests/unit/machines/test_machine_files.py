"""The files of a machine, and the image it starts from, as the hypervisor's side sees them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.machines.adapters.built_image import BuiltImage, sha256_of
from services.machines.adapters.kept_files import FULL_DIGEST_INTERVAL_S
from services.machines.adapters.machine_files import DISK, EMPTY, ENROLMENT, MEMORY, MachineFiles
from services.machines.domain.fence import Claim
from services.machines.domain.spec import MachineSpec
from services.machines.errors import DigestMismatch, HypervisorRefused

SPEC = MachineSpec(machine_id="linux-1", host="local", profile="linux", platform="linux", image="linux")


@pytest.fixture(name="images")
def images_fixture(tmp_path: Path) -> Path:
    """A directory with one built image, reached through a link as the build leaves it."""
    folder = tmp_path / "images" / ".linux-1"
    folder.mkdir(parents=True)
    for name in ("disk.qcow2", "vmlinuz", "initrd.img"):
        (folder / name).write_bytes(name.encode())
    _write_manifest(folder)
    (tmp_path / "images" / "linux").symlink_to(".linux-1")
    return tmp_path / "images"


def _write_manifest(folder: Path, **changes: Any) -> None:
    content = {
        "platform": "linux",
        "arch": "x86_64",
        "disk_sha256": sha256_of(folder / "disk.qcow2"),
        "kernel_sha256": sha256_of(folder / "vmlinuz"),
        "initrd_sha256": sha256_of(folder / "initrd.img"),
        "kernel_arguments": ["rw"],
        "disk_buses": ["virtio"],
        "firmwares": ["bios"],
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def _warm(tmp_path: Path, disk: Path) -> MachineFiles:
    """A published snapshot of four small files, on an image of one."""
    files = MachineFiles(tmp_path / "machines", "linux-1")
    building = files.building(1)
    building.mkdir(parents=True)
    for name in (DISK, MEMORY, ENROLMENT, EMPTY):
        (building / name).write_bytes(name.encode())
    files.publish(building, epoch=1, accelerator="tcg", domain_identity="0" * 64, image=[disk])
    return files


def test_a_built_image_is_pinned_to_its_version(images: Path) -> None:
    """A machine keeps the disk it was made from when the link moves on."""
    image = BuiltImage(images, "linux")
    image.refuse_damaged()
    assert image.disk == images / ".linux-1" / "disk.qcow2"


@pytest.mark.parametrize("name", ["", ".", "..", "../images/linux", ".linux-1", "missing", "/etc"])
def test_only_a_plain_name_of_an_image_is_taken(images: Path, name: str) -> None:
    """A specification cannot lead out of the images' directory."""
    with pytest.raises(HypervisorRefused):
        BuiltImage(images, name)


@pytest.mark.parametrize("name", ["disk.qcow2", "vmlinuz", "initrd.img"])
def test_a_damaged_image_boots_nothing(images: Path, name: str) -> None:
    """Each file is digested before a machine is made of it."""
    (images / "linux" / name).write_bytes(b"other")
    with pytest.raises(HypervisorRefused, match=name):
        BuiltImage(images, "linux").refuse_damaged()


def test_another_build_has_another_identity(images: Path) -> None:
    """Machines are rebuilt when the image changes, which they see by this."""
    before = BuiltImage(images, "linux").identity
    (images / "linux" / "vmlinuz").write_bytes(b"newer")
    _write_manifest(images / "linux")
    assert BuiltImage(images, "linux").identity != before


@pytest.mark.promise("F6", "P21")
@pytest.mark.parametrize(
    ("change", "named"), [({"disk_bus": "sata"}, "disk_bus sata"), ({"firmware": "efi"}, "firmware efi")]
)
def test_hardware_that_the_image_cannot_boot_on_is_refused(images: Path, change: dict[str, str], named: str) -> None:
    """What a profile asks for is given or refused with its name, never ignored."""
    with pytest.raises(HypervisorRefused, match=named):
        BuiltImage(images, "linux").refuse_unfit(SPEC.model_copy(update=change))
    BuiltImage(images, "linux").refuse_unfit(SPEC)


def test_a_published_snapshot_is_read_back_with_its_digests(images: Path, tmp_path: Path) -> None:
    """The positive control of the refusals below."""
    files = _warm(tmp_path, images / "linux" / "disk.qcow2")
    snapshot = files.snapshot()
    assert {name: kept.sha256 for name, kept in snapshot.files.items()} == {
        **{f"warm {name}": sha256_of(files.warm / name) for name in (DISK, MEMORY, ENROLMENT, EMPTY)},
        "image disk.qcow2": sha256_of(images / "linux" / "disk.qcow2"),
    }
    assert not files.building(1).exists()


@pytest.mark.promise("P7")
@pytest.mark.parametrize("name", [DISK, MEMORY, ENROLMENT, EMPTY, "snapshot.json", "image"])
def test_a_snapshot_with_a_missing_or_replaced_part_is_none(images: Path, tmp_path: Path, name: str) -> None:
    """Unknown is dirty: whatever part is not the digested one, nothing is restored from it."""
    disk = images / "linux" / "disk.qcow2"
    files = _warm(tmp_path, disk)
    part = disk if name == "image" else files.warm / name
    part.unlink()
    with pytest.raises(HypervisorRefused):
        files.snapshot()
    part.write_bytes(b"replaced")
    with pytest.raises(HypervisorRefused):
        files.snapshot()


@pytest.mark.promise("P7", "P8")
@pytest.mark.parametrize("name", [DISK, MEMORY, ENROLMENT, "image"])
def test_one_changed_byte_is_seen_though_the_instant_of_the_change_was_put_back(
    images: Path, tmp_path: Path, name: str
) -> None:
    """Size, inode and modification time are those of before; the refusal names the file and both digests."""
    disk = images / "linux" / "disk.qcow2"
    files = _warm(tmp_path, disk)
    part = disk if name == "image" else files.warm / name
    before = part.stat()
    part.chmod(0o600)
    with part.open("r+b") as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(bytes([first[0] ^ 1]))
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DigestMismatch, match=rf"{part.name} has sha256 {sha256_of(part)}, recorded is"):
        files.snapshot()


@pytest.mark.parametrize("name", [DISK, MEMORY, ENROLMENT, "image"])
def test_a_file_that_was_only_touched_is_read_and_known_again(images: Path, tmp_path: Path, name: str) -> None:
    """A backup or a hard link changes no byte, and costs one reading, not the machine."""
    disk = images / "linux" / "disk.qcow2"
    files = _warm(tmp_path, disk)
    before = files.snapshot()
    part = disk if name == "image" else files.warm / name
    part.touch()
    known = files.snapshot()
    assert known.files != before.files
    assert files.snapshot() == known


def test_every_file_is_read_once_a_day_even_if_none_was_touched(images: Path, tmp_path: Path) -> None:
    """What goes wrong below the file system shows in no inode."""
    files = _warm(tmp_path, images / "linux" / "disk.qcow2")
    snapshot = files.snapshot()
    lying = {name: kept.model_copy(update={"sha256": "0" * 64}) for name, kept in snapshot.files.items()}
    wrong = snapshot.model_copy(update={"files": lying})
    wrong.checked(snapshot.digested_at_s + FULL_DIGEST_INTERVAL_S - 1)
    wrong.checked(snapshot.digested_at_s + FULL_DIGEST_INTERVAL_S, is_hurried=True)
    for late_s in (FULL_DIGEST_INTERVAL_S, -1):  # a clock that was set back says nothing of how long ago it was
        with pytest.raises(DigestMismatch, match="image disk"):
            wrong.checked(snapshot.digested_at_s + late_s)


@pytest.mark.promise("P5")
def test_what_incarnations_leave_is_removed_and_the_snapshot_stays(images: Path, tmp_path: Path) -> None:
    """Overlays of every epoch and half-made snapshots go; removing twice is no error."""
    files = _warm(tmp_path, images / "linux" / "disk.qcow2")
    for leftover in (files.life(3), files.life(4), files.building(5)):
        leftover.mkdir()
        (leftover / DISK).touch()
    for _ in range(2):
        files.discard_lives()
    assert [path.name for path in files.directory.iterdir()] == ["warm"]
    files.snapshot()


@pytest.mark.promise("P8")
def test_an_incarnation_begins_with_a_copy_of_the_empty_overlay(images: Path, tmp_path: Path) -> None:
    """A file of its own with the bytes that the snapshot keeps, whatever stood in its place; closed to others."""
    files = _warm(tmp_path, images / "linux" / "disk.qcow2")
    life = files.life(2)
    life.mkdir()
    (life / "left").touch()
    overlay = files.begin(life, backing=files.warm / DISK)
    assert overlay.read_bytes() == (files.warm / EMPTY).read_bytes()
    assert overlay.stat().st_ino != (files.warm / EMPTY).stat().st_ino
    assert overlay.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in life.iterdir()] == [DISK]


@pytest.mark.promise("P5")
def test_only_the_incarnation_that_is_named_is_spared(images: Path, tmp_path: Path) -> None:
    """Strays are named, whether directories, files or links, and what a link leads to stays."""
    files = _warm(tmp_path, images / "linux" / "disk.qcow2")
    for leftover in (files.life(3), files.life(4), files.building(5)):
        leftover.mkdir()
    (files.directory / "life-socket").touch()
    (files.directory / "life-link").symlink_to(files.warm)
    assert files.discard_lives(but=files.life(4)) == ["building-5", "life-3", "life-link", "life-socket"]
    assert files.lives() == [files.life(4)]
    files.snapshot()


def test_the_incarnation_of_an_epoch_is_found_whoever_restored_it(tmp_path: Path) -> None:
    """The latest claim's where there are more, and that of no claim where there is none."""
    files = MachineFiles(tmp_path, "linux-1")
    files.directory.mkdir()
    assert files.life_of(3) == files.life(3)
    for claim in (Claim(9, 2), Claim(10, 1)):
        for epoch in (3, 31):
            files.life(epoch, claim).mkdir()
        assert files.life_of(3) == files.life(3, claim)
    assert files.life_of(1) == files.life(1)


def test_a_discarded_snapshot_is_none(images: Path, tmp_path: Path) -> None:
    """Nothing that looks like a snapshot is left."""
    files = _warm(tmp_path, images / "linux" / "disk.qcow2")
    for _ in range(2):
        files.discard_warm()
    with pytest.raises(HypervisorRefused, match="no warm snapshot"):
        files.snapshot()
