"""What runs is a copy under the digest of its files; it stays while a plan pins it."""

import os
import shutil
import time
from pathlib import Path

import pytest

from malbox.sdk.manifest import ManifestError
from malbox.sdk.scaffold import create_plugin
from services.plugins.adapters import versions as module
from services.plugins.adapters.versions import KeptVersions


@pytest.fixture
def versions(tmp_path: Path) -> KeptVersions:
    """A swept store."""
    kept = KeptVersions(tmp_path / "versions")
    kept.sweep()
    return kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plugin."""
    return create_plugin(tmp_path / "plugins", "counter")


@pytest.mark.promise("P37", "D6")
def test_an_edit_of_the_folder_never_changes_what_was_kept(versions: KeptVersions, folder: Path) -> None:
    """The same version with other bytes is another copy; both are found, each by its digest."""
    before = versions.keep(folder)
    (folder / "plugin.py").write_text("def run(context): ...  # edited\n")
    after = versions.keep(folder)
    assert before.digest != after.digest
    assert "lines" in (before.folder / "plugin.py").read_text()
    found = versions.find("counter", "0.1.0", before.digest)
    assert found is not None
    assert found.folder == before.folder
    shutil.rmtree(folder)
    assert versions.find("counter", "0.1.0", after.digest) is not None


def test_a_version_is_found_by_all_of_its_name(versions: KeptVersions, folder: Path) -> None:
    """A digest under another name or version is nobody's; without a digest the version decides."""
    kept = versions.keep(folder)
    assert versions.find("counter", "0.1.0", "") is not None
    assert versions.find("counter", "0.2.0", "") is None
    assert versions.find("other", "0.1.0", kept.digest) is None
    assert versions.find("counter", "0.1.0", "../../etc") is not None  # no digest: looked for by version alone


def test_tests_samples_and_leftovers_are_no_part_of_a_version(versions: KeptVersions, folder: Path) -> None:
    """Whoever adds a sample does not make another version."""
    before = versions.keep(folder).digest
    (folder / "samples" / "more").write_text("x")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "plugin.pyc").write_text("x")
    (folder / ".plugin.py.swp").write_text("x")
    assert versions.keep(folder).digest == before
    (folder / "rules.yar").write_text("x")
    assert versions.keep(folder).digest != before


@pytest.mark.parametrize("kind", ["link", "pipe", "large"])
def test_a_folder_that_is_not_plain_files_is_refused(
    versions: KeptVersions, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link may lead anywhere, a pipe never ends, and a folder without bound fills the disk."""
    if kind == "link":
        (folder / "passwd").symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(folder / "pipe")
    else:
        monkeypatch.setattr(module, "BYTES_MAX", 10)
    with pytest.raises(ManifestError, match=r"plain files only|make it smaller"):
        versions.keep(folder)
    assert not list(folder.parents[1].joinpath("versions").iterdir())


@pytest.mark.promise("D6")
def test_only_what_no_plan_pins_and_nobody_needs_any_more_is_collected(versions: KeptVersions, folder: Path) -> None:
    """A copy that left the catalogue a moment ago stays too: the word of a plan that pins it may be on its way."""
    old = versions.keep(folder)
    (folder / "plugin.py").write_text("def run(context): ...\n")
    new = versions.keep(folder)
    long_ago = time.time() - 10_000
    for plugin in (old, new):
        os.utime(plugin.folder, (long_ago, long_ago))
    versions.mark_current([new.digest])
    assert versions.collect({old.digest}, older_than_s=60) == []
    assert versions.collect(set(), older_than_s=20_000) == []
    assert versions.collect(set(), older_than_s=60) == [old.digest]
    assert versions.find("counter", "0.1.0", old.digest) is None
    assert versions.find("counter", "0.1.0", new.digest) is not None


@pytest.mark.promise("P37")
def test_what_is_not_what_its_name_says_is_swept_away(versions: KeptVersions, folder: Path) -> None:
    """A copy that a crash cut short or somebody changed is never run; it is made again from the folder."""
    kept = versions.keep(folder)
    (kept.folder / "plugin.py").write_text("def run(context): ...  # tampered\n")
    (kept.folder.parent / f"{module.UNFINISHED}1").mkdir()
    versions.sweep()
    assert list(kept.folder.parent.iterdir()) == []
    assert versions.keep(folder).digest == kept.digest
