"""Recipes, their hashes, and manifests."""

from dataclasses import replace
from pathlib import Path

import pytest

from guest.images import manifest
from guest.images.errors import ImageDamaged, ImageError
from guest.images.manifest import Manifest
from guest.images.recipe import LINUX, agent_files, agent_requirements, base_hash, recipe_hash

LOCK = """\
grpcio==1.0 \\
    --hash=sha256:aa
other==9.9 \\
    --hash=sha256:bb
protobuf==2.0 \\
    --hash=sha256:cc
typing-extensions==3.0 \\
    --hash=sha256:dd
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source tree with an agent."""
    for name in ("guest/agent.py", "guest/images/build.py", "contracts/guest/agent_pb2.py", "services/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n", encoding="utf-8")
    (tmp_path / "requirements.lock").write_text(LOCK, encoding="utf-8")
    return tmp_path


def _hash(source: Path) -> str:
    return recipe_hash(LINUX, source, source / "requirements.lock")


def test_only_the_agent_and_its_contract_travel_into_a_guest(source: Path) -> None:
    """Recipes and services stay on the host."""
    names = [str(path.relative_to(source)) for path in agent_files(source)]
    assert names == ["guest/agent.py", "contracts/guest/agent_pb2.py"]


def test_only_the_agents_requirements_are_taken_from_the_lock_with_their_hashes(source: Path) -> None:
    """The guest gets exactly the locked wheels that the agent imports."""
    text = "".join(agent_requirements(source / "requirements.lock"))
    assert "other" not in text
    assert "bb" not in text
    assert all(f"sha256:{digest}" in text for digest in ("aa", "cc", "dd"))


def test_a_lock_without_the_agents_requirements_is_refused(source: Path) -> None:
    """An image is never built with whatever version happens to be there."""
    (source / "requirements.lock").write_text("other==9.9 \\\n    --hash=sha256:bb\n", encoding="utf-8")
    with pytest.raises(ImageError, match="grpcio"):
        agent_requirements(source / "requirements.lock")


@pytest.mark.parametrize("changed", ["guest/agent.py", "contracts/guest/agent_pb2.py", "requirements.lock"])
def test_a_change_that_reaches_the_guest_changes_the_hash(source: Path, changed: str) -> None:
    """Agent, contract and locked dependencies each call for another image."""
    before = _hash(source)
    text = (source / changed).read_text(encoding="utf-8")
    (source / changed).write_text(text.replace("1", "2"), encoding="utf-8")
    assert _hash(source) != before


@pytest.mark.parametrize("changed", ["services/x.py", "guest/images/build.py"])
def test_a_change_that_stays_on_the_host_keeps_the_image(source: Path, changed: str) -> None:
    """Nothing is rebuilt for code that no guest sees."""
    before = _hash(source)
    (source / changed).write_text("2\n", encoding="utf-8")
    assert _hash(source) == before


def test_another_package_needs_another_base() -> None:
    """The cached base is found by what it depends on."""
    assert base_hash(replace(LINUX, packages=(*LINUX.packages, "perl"))) != base_hash(LINUX)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with its manifest."""
    for name in (manifest.DISK, manifest.KERNEL, manifest.INITRD):
        (tmp_path / name).write_bytes(name.encode())
    said = Manifest(
        name="linux",
        platform="linux",
        arch="x86_64",
        recipe_hash="0" * 64,
        disk_sha256=manifest.sha256_of(tmp_path / manifest.DISK),
        kernel_sha256=manifest.sha256_of(tmp_path / manifest.KERNEL),
        initrd_sha256=manifest.sha256_of(tmp_path / manifest.INITRD),
        kernel_arguments=["rw"],
        disk_buses=["virtio"],
        firmwares=["bios"],
        user="sample",
        packages={"bash": "5"},
        python_packages={"grpcio": "1"},
    )
    manifest.write(tmp_path, said)
    return tmp_path


def test_an_image_that_is_what_its_manifest_says_is_verified(image: Path) -> None:
    """The positive control of the refusals below."""
    assert manifest.verify(image).name == "linux"


@pytest.mark.parametrize("name", [manifest.DISK, manifest.KERNEL, manifest.INITRD])
def test_each_changed_file_of_an_image_is_found(image: Path, name: str) -> None:
    """One changed byte in disk, kernel or ramdisk is named."""
    (image / name).write_bytes(b"other")
    with pytest.raises(ImageDamaged, match=name):
        manifest.verify(image)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', "\x00"])
def test_an_unreadable_manifest_is_damage_and_not_a_crash(image: Path, content: str) -> None:
    """Whatever stands in the file, the answer is one error."""
    (image / manifest.MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(ImageDamaged):
        manifest.read(image)
