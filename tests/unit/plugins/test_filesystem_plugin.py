"""The guest plugin `filesystem`, with the kernel's own notices: what happened, and the bytes of what did not last."""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.plugins.builtin.filesystem import copies as bounds
from services.plugins.builtin.filesystem import inotify
from services.plugins.builtin.filesystem import plugin as code
from services.plugins.builtin.filesystem.plugin import Filesystem

SEEN_MAX_S = 20.0
FLEETING = b"here today"


@dataclass
class Kept:
    """An outlet that keeps what it is given."""

    records: list[dict[str, Any]] = field(default_factory=list)
    not_kept: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def record(self, name: str, value: Any) -> None:
        """Kept in order."""
        {"filesystem": self.records, "not_kept": self.not_kept}[name].append(value)

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
    while not any(_content(copy) == FLEETING for copy in scratch.iterdir()):
        assert time.monotonic() < give_up_at
        notices.read(timeout_s=1.0)


def _content(path: Path) -> bytes | None:
    """None: it has another name by now."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


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
    assert watch.kept.records[-1] == {
        "event": "kept", "path": str(watch.folder / "fleeting"), "result": "transient/000", "missing_bytes": 0,
    }  # fmt: skip
    assert watch.kept.not_kept == []
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
    assert events[3:] == ["no_more_is_recorded", "not_recorded", "not_everything_was_watched"]
    assert watch.kept.records[4]["changes"] >= 3
    assert watch.kept.records[0]["path"].endswith("\\xff")
    assert watch.kept.files == {}


MIB = 1024 * 1024


def taken(scratch: Path, files: dict[Path, bytes], *, lasting: AbstractSet[Path] = frozenset()) -> bounds.Copies:
    """Each file was copied, as far as the bounds go, and then all but the lasting ones went."""
    copies = bounds.Copies(scratch)
    for path, content in files.items():
        path.write_bytes(content)
        copies.take(bytes(path))
    for path in set(files) - lasting:
        path.unlink()
    return copies


def test_after_the_bound_of_copied_bytes_each_file_that_goes_is_counted(watch: Watch) -> None:
    """32 MiB are copied; of the three MiB more, the two that did not last are missing, and the third is not."""
    files = {watch.folder / f"{number:02d}": bytes([number]) * MIB for number in range(35)}
    copies = taken(watch.scratch, files, lasting={watch.folder / "34"})
    assert len(list(copies.transient(16))) == 16
    [copied, handed_out] = copies.not_kept()
    assert copied == {"why": "bytes_copied", "limit": 32 * MIB, "files": 2, "bytes": 2 * MIB}
    assert handed_out == {"why": "files_handed_out", "limit": 16, "files": 16, "bytes": 16 * MIB}


def test_a_smaller_file_still_has_the_room_that_a_larger_one_had_not(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused takes up nothing."""
    monkeypatch.setattr(bounds, "COPIES_MAX_BYTES", 10)
    files = {watch.folder / "a": b"x" * 8, watch.folder / "b": b"x" * 3, watch.folder / "c": b"xx"}
    copies = taken(watch.scratch, files)
    assert [copy.path for copy in copies.transient(16)] == [bytes(watch.folder / "a"), bytes(watch.folder / "c")]
    assert copies.not_kept() == [{"why": "bytes_copied", "limit": 10, "files": 1, "bytes": 3}]


def test_the_rest_of_a_file_that_is_larger_than_a_copy_is_counted(watch: Watch) -> None:
    """The first 4 MiB are kept, and how much is missing is said with the copy and in the count."""
    copies = taken(watch.scratch, {watch.folder / "large": bytes(4 * MIB + 5)})
    [copy] = copies.transient(16)
    assert (copy.file.stat().st_size, copy.missing_bytes) == (4 * MIB, 5)
    assert copies.not_kept() == [{"why": "file_bytes", "limit": 4 * MIB, "files": 1, "bytes": 5}]


@pytest.mark.parametrize(
    ("bound", "value", "expected"),
    [
        ("COPIES_MAX", 1, {"why": "files_copied", "limit": 1, "files": 2, "bytes": 5}),
        ("HANDED_OUT_MAX_BYTES", 4, {"why": "bytes_handed_out", "limit": 4, "files": 1, "bytes": 3}),
    ],
)
def test_every_other_bound_is_counted_too(
    bound: str, value: int, expected: dict[str, object], watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name, its limit, and what did not fit."""
    monkeypatch.setattr(bounds, bound, value)
    copies = taken(watch.scratch, {watch.folder / name: b"x" * size for name, size in (("a", 2), ("b", 3), ("c", 2))})
    assert list(copies.transient(16))
    assert copies.not_kept() == [expected]


def test_a_file_that_cannot_be_read_or_not_be_written_again_is_counted(watch: Watch) -> None:
    """Whatever the system says; of a file of which only a part could be written there is no copy."""
    copies = bounds.Copies(watch.scratch)
    for name, kind, limit in (("first", resource.RLIMIT_NOFILE, 0), ("second", resource.RLIMIT_FSIZE, 2)):
        (watch.folder / name).write_bytes(b"12345")
        with limited(kind, limit):
            copies.take(bytes(watch.folder / name))
        (watch.folder / name).unlink()
    assert list(copies.transient(16)) == []
    assert copies.not_kept() == [
        {"why": "no_room", "limit": None, "files": 1, "bytes": 5},
        {"why": "unreadable", "limit": None, "files": 1, "bytes": 5},
    ]


def test_an_earlier_copy_outlives_the_one_for_which_there_was_no_room(watch: Watch) -> None:
    """What the sample wrote first is handed out, though its last version could not be kept."""
    copies, path = bounds.Copies(watch.scratch), watch.folder / "twice"
    path.write_bytes(b"first")
    copies.take(bytes(path))
    path.write_bytes(b"second, and longer")
    with limited(resource.RLIMIT_FSIZE, 2):
        copies.take(bytes(path))
    path.unlink()
    assert [copy.file.read_bytes() for copy in copies.transient(16)] == [b"first"]
    assert [one["why"] for one in copies.not_kept()] == ["no_room"]
    assert len(list(watch.scratch.iterdir())) == 1


def test_a_directory_that_takes_the_place_of_a_file_as_it_is_read_ends_nothing(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no file: neither copied nor missed, and no descriptor of it is left."""
    path, lstat = watch.folder / "both", os.lstat
    path.write_bytes(b"12345")

    def swapped(asked: bytes) -> os.stat_result:
        facts = lstat(asked)
        path.unlink()
        path.mkdir()
        return facts

    monkeypatch.setattr(os, "lstat", swapped)
    copies, before = bounds.Copies(watch.scratch), len(list(Path("/proc/self/fd").iterdir()))
    copies.take(bytes(path))
    monkeypatch.undo()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert (list(copies.transient(16)), copies.not_kept()) == ([], [])


@contextlib.contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """This process may have no more of it."""
    limits = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, limits)


def test_a_file_that_was_gone_before_it_could_be_read_is_counted_unless_it_moved(watch: Watch) -> None:
    """Its size nobody knows."""
    copies = bounds.Copies(watch.scratch)
    for name in ("gone", "moved"):
        copies.take(bytes(watch.folder / name))
    copies.moved(bytes(watch.folder / "moved"))
    assert copies.not_kept() == [{"why": "gone", "limit": None, "files": 1, "bytes": 0}]


def test_more_files_than_can_be_told_apart_are_counted_all_the_same(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of them has a bound of its own, and the count goes on."""
    monkeypatch.setattr(bounds, "MISSED_MAX", 2)
    copies = bounds.Copies(watch.scratch)
    for number in range(5):
        copies.take(bytes(watch.folder / f"{number}"))
    assert [(one["why"], one["limit"], one["files"]) for one in copies.not_kept()] == [
        ("files_told_apart", 2, 3),
        ("gone", None, 2),
    ]


def test_what_was_not_kept_is_a_result_of_its_own(watch: Watch) -> None:
    """The report shows it whole, however long the record of changes is."""
    watch.during(fleeting, files_max=0)
    assert watch.kept.not_kept == [{"why": "files_handed_out", "limit": 0, "files": 1, "bytes": len(FLEETING)}]


def test_links_and_devices_are_not_read(watch: Watch) -> None:
    """A link to somebody's file is not that file."""

    def act(folder: Path) -> None:
        (folder / "link").symlink_to("/etc/hostname")
        (folder / "link").unlink()

    watch.during(act)
    assert watch.events("link") == ["created", "deleted"]
    assert watch.kept.files == {}
