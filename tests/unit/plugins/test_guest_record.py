"""The record of a guest is bounded, in order, and honest about what is missing."""

import json
from pathlib import Path

import pytest

from services.plugins import guest_record
from services.plugins.guest_record import GuestRecord
from services.plugins.ports_guest import (
    EvidenceFrame,
    GuestLied,
    GuestLog,
    Heartbeat,
    KeepAlive,
    ProcessExited,
    ProcessStarted,
    RecordSealed,
    SourceSummary,
    TreeEmpty,
)


def frame(position: int, content: bytes, *, source: str = "syscalls", gap_frames: int = 0) -> EvidenceFrame:
    return EvidenceFrame(position, source, position, content, is_truncated=False, gap_frames=gap_frames)


def is_truncated(record: GuestRecord, source: str) -> bool:
    return record.sources[source].is_truncated


def tree_empty_at(record: GuestRecord) -> float | None:
    return record.tree_empty_at


@pytest.fixture
def record(tmp_path: Path) -> GuestRecord:
    """An empty record in a directory of its own."""
    return GuestRecord(directory=tmp_path, heartbeat_at=0.0)


def test_events_seen_twice_count_once(record: GuestRecord) -> None:
    """A watch that was taken up again repeats; the evidence does not."""
    for _ in range(2):
        record.take(frame(1, b"abc"), 1.0)
        record.take(frame(2, b"def"), 2.0)
    record.close()
    assert record.sources["syscalls"].path.read_bytes() == b"abcdef"
    assert record.heartbeat_at == 2.0


@pytest.mark.promise("C5", "P30")
def test_only_a_plugin_that_may_keeps_the_watch_alive(tmp_path: Path) -> None:
    """What the guest says of others is not heeded; letting go twice is letting go once."""
    record = GuestRecord(directory=tmp_path, heartbeat_at=0.0, may_keep_alive=frozenset({"syscalls"}))
    record.take(KeepAlive(1, "impostor", is_held=True), 1.0)
    assert record.holders == set()
    record.take(KeepAlive(2, "syscalls", is_held=True), 2.0)
    record.take(KeepAlive(3, "syscalls", is_held=True), 3.0)
    assert (record.holders, record.released_at) == ({"syscalls"}, None)
    record.take(KeepAlive(4, "syscalls", is_held=False), 4.0)
    record.take(KeepAlive(5, "syscalls", is_held=False), 5.0)
    record.take(KeepAlive(6, "impostor", is_held=False), 6.0)
    assert (record.holders, record.released_at) == (set(), 4.0)


def test_a_process_that_starts_unmakes_an_empty_tree(record: GuestRecord) -> None:
    """The tree is empty only while it is."""
    record.take(ProcessStarted(1, 10, is_first=True), 1.0)
    record.take(ProcessExited(2, 10, is_first=True, exit_code=3, signal=None), 2.0)
    record.take(TreeEmpty(3), 2.0)
    assert tree_empty_at(record) == 2.0
    record.take(ProcessStarted(4, 11, is_first=False), 2.5)
    assert tree_empty_at(record) is None
    assert record.first_exit is not None
    assert record.first_exit.exit_code == 3
    record.take(Heartbeat(1), 3.0)
    record.take(RecordSealed(5), 3.5)
    assert record.is_sealed


@pytest.mark.promise("P30")
def test_gaps_and_missing_bytes_are_shown(record: GuestRecord) -> None:
    """What never came marks the source as truncated."""
    record.take(frame(1, b"abc"), 1.0)
    record.compare((SourceSummary("syscalls", 1, 3, "", is_truncated=False),))
    assert not is_truncated(record, "syscalls")
    record.compare((SourceSummary("syscalls", 2, 6, "", is_truncated=False),))
    assert is_truncated(record, "syscalls")
    record.take(frame(2, b"x", source="stdout", gap_frames=2), 1.0)
    assert is_truncated(record, "stdout")
    assert record.gaps == 2
    record.close()


@pytest.mark.promise("P30")
def test_what_a_guest_sends_is_bounded(record: GuestRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many bytes are cut, too many processes counted out, too many or odd sources refused."""
    monkeypatch.setattr(guest_record, "SOURCE_MAX_BYTES", 4)
    monkeypatch.setattr(guest_record, "PROCESS_EVENTS_MAX", 1)
    monkeypatch.setattr(guest_record, "SOURCES_MAX", 1)
    record.take(frame(1, b"abcdef"), 1.0)
    record.take(ProcessStarted(2, 1, is_first=True), 1.0)
    record.take(ProcessStarted(3, 2, is_first=False), 1.0)
    assert (record.sources["syscalls"].size_bytes, record.sources["syscalls"].is_truncated) == (4, True)
    assert (len(record.processes), record.are_processes_truncated) == (1, True)
    monkeypatch.setattr(guest_record, "LOG_LINES_MAX", 1)
    for position in (4, 5, 6):
        record.take(GuestLog(position, "said", "so"), 1.0)
    record.write_summary(record.directory / "summary.json")
    told = json.loads((record.directory / "summary.json").read_text(encoding="utf-8"))
    assert (len(told["processes"]), told["processes_left_out"]) == (1, 1)
    assert (len(told["log"]), told["log_left_out"]) == (1, 2)
    with pytest.raises(GuestLied):
        record.take(frame(7, b"x", source="more"), 1.0)
    record.close()


@pytest.mark.promise("P30")
@pytest.mark.parametrize("name", ["../x", "", "A", "a" * 60, "a\n"])
def test_a_source_with_an_odd_name_is_a_lie(name: str, record: GuestRecord) -> None:
    """A name of the guest's never becomes part of a path or a message of ours unchecked."""
    with pytest.raises(GuestLied):
        record.take(frame(1, b"x", source=name), 1.0)
