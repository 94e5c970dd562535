"""The guest plugin `filesystem`, with the kernel's own notices: what happened, and the bytes of what did not last."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.plugins.builtin.filesystem import inotify
from services.plugins.builtin.filesystem import plugin as code
from services.plugins.builtin.filesystem.plugin import Filesystem

SEEN_MAX_S = 20.0
FLEETING = b"here today"


@dataclass
class Kept:
    """An outlet that keeps what it is given."""

    records: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def record(self, name: str, value: Any) -> None:
        """Kept in order."""
        assert name == "filesystem"
        self.records.append(value)

    def whole(self, name: str, kind: str, media_type: str, content: bytes | Path) -> None:
        """Kept under its name."""
        assert (kind, media_type) == ("file", "application/octet-stream")
        self.files[name] = content if isinstance(content, bytes) else content.read_bytes()

    def log(self, event: str, keys: dict[str, Any]) -> None:
        """It logs nothing."""
        raise AssertionError(event, keys)


@dataclass
class Watch:
    """A plugin that watches a directory, and what it emitted."""

    folder: Path
    scratch: Path
    kept: Kept = field(default_factory=Kept)

    def during(self, act: Callable[[Path], object], *, files_max: int = 16) -> "Watch":
        """The act happened between arm and flush."""
        plugin = Filesystem(self.kept, self.scratch)
        plugin.initialize({"directories": [str(self.folder), "/nowhere"], "files_max": files_max})
        plugin.arm()
        try:
            act(self.folder)
        finally:
            plugin.flush()
        return self

    def events(self, name: str) -> list[str]:
        """What happened to the file of that name."""
        return [one["event"] for one in self.kept.records if one.get("path") == str(self.folder / name)]


@pytest.fixture(name="watch")
def watch_fixture(tmp_path: Path) -> Watch:
    """An empty directory that is to be watched."""
    for name in ("watched", "scratch"):
        (tmp_path / name).mkdir()
    return Watch(tmp_path / "watched", tmp_path / "scratch")


def fleeting(folder: Path) -> None:
    """A file that is written, looked at by the plugin in the meantime, and deleted."""
    path = folder / "fleeting"
    path.write_bytes(FLEETING)
    _until_copied(folder.parent / "scratch")
    path.unlink()


def _until_copied(scratch: Path) -> None:
    """The plugin has a copy of exactly this file."""
    notices, give_up_at = inotify.Notices(), time.monotonic() + SEEN_MAX_S
    list(notices.watch(bytes(scratch)))
    while not any(copy.read_bytes() == FLEETING for copy in scratch.iterdir()):
        assert time.monotonic() < give_up_at
        notices.read(timeout_s=1.0)


def test_what_happens_to_files_is_recorded_in_order(watch: Watch) -> None:
    """Created, written, moved, deleted, with its path; what was there before is nothing new."""
    (watch.folder / "old").write_bytes(b"x")

    def act(folder: Path) -> None:
        (folder / "one").write_bytes(b"1")
        (folder / "one").rename(folder / "two")
        (folder / "two").unlink()

    watch.during(act, files_max=0)  # whether the plugin was quick enough to copy it is not asked here
    assert watch.events("one") == ["created", "written", "moved_from"]
    assert watch.events("two") == ["moved_to", "deleted"]
    assert watch.events("old") == []


def test_a_file_that_did_not_last_is_kept_and_one_that_did_is_not(watch: Watch) -> None:
    """The bytes are those that it had; the record names them."""

    def act(folder: Path) -> None:
        (folder / "lasting").write_bytes(b"here for ever")
        fleeting(folder)

    watch.during(act)
    assert watch.kept.files == {"transient/000": FLEETING}
    assert watch.kept.records[-1]["result"] == "transient/000"
    assert watch.events("fleeting")[-1] == "kept"


def test_new_directories_are_watched_with_all_that_is_in_them_already(watch: Watch) -> None:
    """Whoever makes a tree at once hides nothing in it."""

    def act(folder: Path) -> None:
        (folder / "a/b/c").mkdir(parents=True)
        (folder / "a/b/c/deep").write_bytes(b"x")

    watch.during(act)
    assert watch.events("a/b/c")[:1] == ["created"]
    assert "created" in watch.events("a/b/c/deep")


def test_what_is_kept_and_recorded_is_bounded(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the record says that it is; names that are no text are shown all the same."""
    monkeypatch.setattr(code, "RECORDS_MAX", 3)
    monkeypatch.setattr(inotify, "WATCHES_MAX", 1)

    def act(folder: Path) -> None:
        Path(bytes(folder).decode(), "\udcff").write_bytes(b"x")
        (folder / "sub").mkdir()
        fleeting(folder)

    watch.during(act, files_max=0)
    events = [one["event"] for one in watch.kept.records]
    assert len(events) == 5
    assert events[3:] == ["no_more_is_recorded", "not_everything_was_watched"]
    assert watch.kept.records[0]["path"].endswith("\\xff")
    assert watch.kept.files == {}


def test_links_and_devices_are_not_read(watch: Watch) -> None:
    """A link to somebody's file is not that file."""

    def act(folder: Path) -> None:
        (folder / "link").symlink_to("/etc/hostname")
        (folder / "link").unlink()

    watch.during(act)
    assert watch.events("link") == ["created", "deleted"]
    assert watch.kept.files == {}
