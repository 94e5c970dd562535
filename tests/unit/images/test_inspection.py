"""The check that refuses an image with a way in."""

from collections.abc import Callable
from pathlib import Path

import pytest

from guest.images.errors import ImageRefused
from guest.images.inspection import refuse_unsafe

Break = Callable[[Path], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The tree of an image that is fine."""
    for folder in ("etc/sudoers.d", "usr/sbin", "usr/bin", "home/sample", "root"):
        (tmp_path / folder).mkdir(parents=True)
    _write(tmp_path / "etc/passwd", "root:x:0:0::/root:/bin/bash\nsample:x:1000:1000::/home/sample:/bin/bash\n")
    _write(tmp_path / "etc/shadow", "root:*:1::::::\nsample:!:1::::::\n")
    _write(tmp_path / "etc/group", "root:x:0:\nsudo:x:27:\nsample:x:1000:\n")
    _write(tmp_path / "usr/bin/su", "")
    (tmp_path / "usr/bin/su").chmod(0o4755)
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _writes(name: str, text: str, mode: int = 0o644) -> Break:
    def damage(root: Path) -> None:
        _write(root / name, text)
        (root / name).chmod(mode)

    return damage


def test_an_image_without_a_way_in_passes(root: Path) -> None:
    """The positive control of the refusals below."""
    refuse_unsafe(root, "sample")


@pytest.mark.promise("F5")
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_writes("usr/sbin/sshd", ""), "sshd"),
        (_writes("usr/sbin/dropbear", ""), "dropbear"),
        (_writes("etc/sudoers", "sample ALL=(ALL) NOPASSWD: ALL\n"), "without a password"),
        (_writes("etc/sudoers.d/90-sample", "%sample ALL=(ALL:ALL) NOPASSWD:ALL\n"), "without a password"),
        (_writes("etc/doas.conf", "permit nopass sample\n"), "without a password"),
        (_writes("etc/shadow", "root:*:1::::::\nsample::1::::::\n"), "sample is not locked"),
        (_writes("etc/shadow", "root:$6$salt$hash:1::::::\nsample:!:1::::::\n"), "root is not locked"),
        (_writes("etc/passwd", "root::0:0::/root:/bin/bash\n"), "password in /etc/passwd"),
        (_writes("etc/passwd", "root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n"), "toor has user id 0"),
        (_writes("etc/group", "root:x:0:\nsudo:x:27:sample\n"), "sample is in group sudo"),
        (_writes("root/.ssh/authorized_keys", "key"), "root/.ssh"),
        (_writes("home/sample/.ssh/authorized_keys", "key"), "home/sample/.ssh"),
        (_writes("usr/bin/backdoor", "", 0o4755), "backdoor runs as root"),
    ],
)
def test_each_way_in_is_refused_by_name(root: Path, damage: Break, named: str) -> None:
    """Remote login, root without a password, an unlocked account, a key, an unknown setuid program."""
    damage(root)
    with pytest.raises(ImageRefused, match=named):
        refuse_unsafe(root, "sample")


def test_a_commented_rule_grants_nothing(root: Path) -> None:
    """Only rules that are in force are findings."""
    _write(root / "etc/sudoers", "# sample ALL=(ALL) NOPASSWD: ALL\n")
    refuse_unsafe(root, "sample")
