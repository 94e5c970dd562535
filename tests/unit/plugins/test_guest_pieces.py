"""The host's record of a guest plugin: what came, what did not, and what is not believed, whatever the guest says."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.guest import agent_pb2 as pb
from malbox.sdk.manifest import load_manifest
from services.plugins import guest_pieces
from services.plugins.adapters import guest_events
from services.plugins.adapters.guest_events import EventReader
from services.plugins.guest_pieces import PluginRecord
from services.plugins.guest_record import GuestRecord
from services.plugins.ports_guest import GuestLied, PluginPiece
from tests.unit.guest.bundled import make_plugin

U64 = 2**64 - 1


@pytest.fixture(name="record")
def record_fixture(tmp_path: Path) -> Iterator[PluginRecord]:
    """Of a plugin that declares `seen` (json), `kept` (bytes) and `files/…`; nothing came yet."""
    spool = tmp_path / "spool"
    spool.mkdir()
    record = PluginRecord(load_manifest(make_plugin(tmp_path, "watcher")), spool)
    yield record
    record.close()


def a_record(sequence: int, value: Any = "x", **otherwise: Any) -> PluginPiece:
    """One record of `seen`."""
    fields = {"name": "seen", "kind": "json", "media_type": "application/json", "content": json.dumps(value).encode()}
    return PluginPiece(1, "watcher", sequence, **{**fields, **otherwise})


def a_piece(sequence: int, content: bytes = b"", *, name: str = "kept", is_last: bool = False) -> PluginPiece:
    """A piece of bytes, or of a file."""
    kind = "bytes" if name == "kept" else "file"
    return PluginPiece(1, "watcher", sequence, name, kind, "text/plain", content, is_last)


def contents(record: PluginRecord) -> dict[str, bytes]:
    """Every result, as it would be stored."""
    record.close()
    return {one.name: one.path.read_bytes() for one in record.evidence()}


def truncated(record: PluginRecord) -> set[str]:
    """The results of which something is missing."""
    record.close()
    return {one.name for one in record.evidence() if one.is_truncated}


def test_records_become_a_list_and_pieces_a_file(record: PluginRecord) -> None:
    """The positive control: everything came, in order, and is whole."""
    taken = [a_record(0, {"a": 1}), a_piece(1, b"one "), a_record(2, [2]), a_piece(3, b"two"), a_piece(4, is_last=True)]
    for piece in taken:
        record.take(piece)
    record.expect(5)
    assert contents(record) == {"seen": b'[{"a": 1},[2]]', "kept": b"one two"}
    assert truncated(record) == set()
    assert [one.title for one in record.evidence()] == ["Seen", "Kept"]
    assert record.summary() == {"pieces": 5, "gaps": 0, "repeats": 0}


@pytest.mark.promise("P30")
def test_a_gap_in_the_count_is_seen_and_marks_what_came(record: PluginRecord) -> None:
    """What lies between is counted, whatever the next number is; what came stays JSON."""
    record.take(a_record(0))
    record.take(a_record(3))
    assert record.summary() == {"pieces": 2, "gaps": 2, "repeats": 0}
    assert truncated(record) == {"seen"}
    assert json.loads(contents(record)["seen"]) == ["x", "x"]


@pytest.mark.promise("P30")
def test_a_gap_before_the_first_piece_of_a_result_marks_it_too(record: PluginRecord) -> None:
    """What never came may have been its beginning."""
    record.take(a_record(1))
    record.take(a_piece(2, b"x", is_last=True))
    assert (record.gaps, truncated(record)) == (1, {"seen", "kept"})


@pytest.mark.promise("P30")
def test_pieces_that_never_came_at_the_end_are_seen(record: PluginRecord) -> None:
    """The guest recorded three and one came; an absurd number does not get an absurd report."""
    record.take(a_record(0))
    record.expect(3)
    assert record.gaps == 2
    record.expect(U64)
    assert record.gaps == guest_pieces.COUNT_MAX
    assert truncated(record) == {"seen"}


@pytest.mark.promise("P30")
def test_a_piece_that_comes_again_is_counted_and_changes_nothing(record: PluginRecord) -> None:
    """The first one stands, also when the second says something else."""
    for piece in (a_record(0, "first"), a_record(1), a_record(0, "second"), a_record(1)):
        record.take(piece)
    assert record.summary() == {"pieces": 4, "gaps": 0, "repeats": 2}
    assert json.loads(contents(record)["seen"]) == ["first", "x"]


@pytest.mark.promise("P30")
@pytest.mark.parametrize(
    ("piece", "words"),
    [
        (a_record(1, name="other"), "other is not declared"),
        (a_record(1, name="../etc"), "is not declared"),
        (a_record(1, kind="bytes"), "is not declared|two kinds"),
        (a_record(1, media_type="text/plain"), "two kinds"),
        (a_record(1, content=b"{"), "is not JSON"),
        (a_record(1, content=b"\xff"), "is not JSON"),
        (a_record(1, content=b"[" * 70_000), "the limit is"),
        (a_piece(1, b"x", name="files"), "is not declared"),
        (PluginPiece(1, "watcher", 1, "kept", "bytes", "no media type", b"x"), "no proper media type"),
    ],
)
def test_a_piece_that_breaks_a_rule_ends_the_belief_in_its_plugin(
    piece: PluginPiece, words: str, record: PluginRecord
) -> None:
    """The reason is named, what came before stays, and what comes after is not taken."""
    record.take(a_record(0, "before"))
    record.take(piece)
    record.take(a_record(2, "after"))
    assert any(word in record.fault for word in words.split("|")), record.fault
    assert json.loads(contents(record)["seen"]) == ["before"]


def test_a_result_does_not_go_on_after_its_end(record: PluginRecord) -> None:
    """A file that is whole stays what it is."""
    for piece in (a_piece(0, b"x"), a_piece(1, is_last=True), a_piece(2, b"y")):
        record.take(piece)
    assert "goes on after its end" in record.fault
    assert contents(record) == {"kept": b"x"}


def test_a_result_whose_end_never_came_is_marked(record: PluginRecord) -> None:
    """Records have no end; bytes and files have."""
    for piece in (a_record(0), a_piece(1, b"x"), a_piece(2, b"y", name="files/one")):
        record.take(piece)
    assert truncated(record) == {"kept", "files/one"}


def test_results_are_bounded_in_number_and_in_size(record: PluginRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is full is marked; one result too many is a broken rule."""
    monkeypatch.setattr(guest_pieces, "JSON_RESULT_MAX_BYTES", 20)
    count = itertools.count()
    for _ in range(10):
        record.take(a_record(next(count)))
    monkeypatch.setattr(guest_pieces, "ARTIFACTS_PER_RUN_MAX", 2)
    for name in ("files/one", "files/two"):
        record.take(a_piece(next(count), b"x", name=name))
    assert "more than 2 results" in record.fault
    assert json.loads(contents(record)["seen"]) == ["x"] * 5
    assert truncated(record) == {"seen", "files/one"}


def test_evidence_of_a_plugin_that_is_not_planned_is_counted(tmp_path: Path) -> None:
    """Nothing is written for it."""
    record = GuestRecord(directory=tmp_path, heartbeat_at=0.0)
    record.take(a_record(0), 1.0)
    assert (record.strange_pieces, list(tmp_path.iterdir())) == (1, [])


def believed(*pieces: pb.PluginEvidence) -> EventReader:
    """A reader that was given those events."""
    reader = EventReader(lease_id="lea_x", epoch=1)
    for position, piece in enumerate(pieces, start=1):
        reader.believe(pb.Event(lease_id="lea_x", epoch=1, position=position, plugin_evidence=piece))
    return reader


@pytest.mark.promise("P30")
def test_what_no_plugin_could_have_said_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Impossible names, pieces that are too large, too many plugins: dropped, counted. A flood is a lie."""
    honest = pb.PluginEvidence(plugin="watcher", name="seen", kind="json", content=b"1")
    assert believed(honest).refused == 0
    large = pb.PluginEvidence(plugin="watcher", content=b"x" * (guest_events.FRAME_MAX_BYTES + 1))
    assert believed(pb.PluginEvidence(plugin="../x"), pb.PluginEvidence(), large).refused == 3
    assert believed(*(pb.PluginEvidence(plugin=f"p{number}") for number in range(20))).refused == 4
    monkeypatch.setattr(guest_events, "PLUGIN_MAX_BYTES", 10)
    with pytest.raises(GuestLied, match="more than 10 bytes of watcher"):
        believed(*[honest] * 11)


def test_a_record_that_breaks_its_schema_ends_the_plugins_record(tmp_path: Path) -> None:
    """The schema is that of each record: what came before stays, and the fault is the plugin's."""
    plugin = make_plugin(tmp_path, "watcher")
    manifest = load_manifest(plugin)
    shaped = manifest.results["seen"].model_copy(update={"shape": {"type": "integer"}})
    record = PluginRecord(manifest.model_copy(update={"results": {"seen": shaped}}), tmp_path)
    record.take(a_record(0, 1))
    record.take(a_record(1, "one"))
    record.take(a_record(2, 2))
    assert record.fault == "result seen breaks its schema at type"
    assert contents(record) == {"seen": b"[1]"}
