"""Scratch directories of image builds: what is removed, and what is not."""

import os
import subprocess
from pathlib import Path

import pytest

from guest.images import disposal
from guest.images.disposal import mounts_below, remove, scratch
from guest.images.errors import ImageError

MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:5 / {folder}/root/dev rw - devtmpfs devtmpfs rw
31 30 0:21 / {folder}/root/dev/with\\040blank rw - tmpfs tmpfs rw
32 22 0:21 / {folder}-beside rw - tmpfs tmpfs rw
"""


def test_mounts_below_a_directory_are_found_deepest_first(tmp_path: Path) -> None:
    """Blanks are undone, and a sibling whose name begins alike is not below."""
    found = mounts_below(tmp_path, MOUNTINFO.format(folder=tmp_path))
    assert found == [tmp_path / "root/dev/with blank", tmp_path / "root/dev"]


def test_a_directory_with_a_mount_in_it_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays whole, and the message says what to do; without the mount the same directory is removed."""
    folder = tmp_path / "build"
    (folder / "root/dev").mkdir(parents=True)
    (folder / "root/dev/precious").touch()
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTINFO.format(folder=folder), encoding="utf-8")
    monkeypatch.setattr(disposal, "MOUNTS", table)
    with pytest.raises(ImageError, match="umount"):
        remove(folder)
    assert (folder / "root/dev/precious").exists()
    table.write_text(MOUNTINFO.format(folder=tmp_path / "elsewhere"), encoding="utf-8")
    remove(folder)
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_real_bind_mount_keeps_a_directory_from_being_removed(tmp_path: Path) -> None:
    """The kernel's own table is read: what lies behind the mount survives."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    inside = tmp_path / "build/root/dev"
    inside.mkdir(parents=True)
    subprocess.run(["/usr/bin/mount", "--bind", str(precious), str(inside)], check=True, timeout=30)
    try:
        with pytest.raises(ImageError, match="umount"):
            remove(tmp_path / "build")
    finally:
        subprocess.run(["/usr/bin/umount", str(inside)], check=True, timeout=30)
    assert (precious / "file").exists()


def test_what_an_interrupted_build_left_is_removed_before_the_next(tmp_path: Path) -> None:
    """And the directory of the build itself is gone after it, whatever happened."""
    (tmp_path / ".building-old/root").mkdir(parents=True)
    made: list[Path] = []

    def interrupted() -> None:
        with scratch(".building-", tmp_path) as folder:
            made.extend(tmp_path.iterdir())
            assert made == [folder]
            raise ImageError("enough")

    with pytest.raises(ImageError, match="enough"):
        interrupted()
    assert len(made) == 1
    assert list(tmp_path.iterdir()) == []
