"""Whatever an agent of the lease sends of its plugins, processes and traces: it is taken, dropped, or a lie."""

import contextlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.guest import agent_pb2 as pb
from malbox.sdk.manifest import Manifest
from services.plugins.adapters.guest_events import EventReader
from services.plugins.guest_pieces import PluginRecord
from services.plugins.guest_record import GuestRecord
from services.plugins.ports_guest import GuestLied

LEASE_ID, EPOCH = "lea_x", 1
MANIFEST = Manifest.model_validate(
    {
        "plugin": {"name": "watcher", "version": "1.0.0", "description": "Watches.", "kind": "guest"},
        "applies": {"stages": ["guest"]},
        "results": {
            "seen": {"kind": "json", "title": "S"},
            "kept": {"kind": "bytes", "title": "K"},
            "files": {"kind": "file", "title": "F", "is_many": True},
        },
    }
)
words = st.sampled_from(
    ["watcher", "seen", "kept", "files/a", "files/../a", "json", "bytes", "file", "a/b", "application/json", "", "\0"]
) | st.text(max_size=6)
contents = st.sampled_from([b"", b"1", b'"x"', b"[", b'"\\ud800"', b"NaN", b"\xff"]) | st.binary(max_size=8)
counts = st.sampled_from([0, 1, 2, 3, 2**32, 2**64 - 1]) | st.integers(0, 5)
small = st.sampled_from([0, 1, 7, 2**22, 2**31 - 1])
EVENTS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(
        pb.PluginEvidence, plugin=words, sequence=counts, name=words, kind=words, media_type=words, content=contents,
        is_last=st.booleans(),
    ).map(lambda piece: {"plugin_evidence": piece}),
    st.builds(
        pb.PluginEvidence, plugin=st.just("watcher"), sequence=st.integers(0, 5), name=st.just("seen"),
        kind=st.just("json"), media_type=st.just("application/json"), content=contents,
    ).map(lambda piece: {"plugin_evidence": piece}),
    st.builds(pb.Evidence, source=words, sequence=counts, content=contents, is_truncated=st.booleans()).map(
        lambda frame: {"evidence": frame}
    ),
    st.builds(pb.ProcessStarted, pid=small, is_first=st.booleans()).map(lambda one: {"process_started": one}),
    st.builds(pb.ProcessExited, pid=small, is_first=st.booleans(), exit_code=small, signal=small).map(
        lambda one: {"process_exited": one}
    ),
    st.builds(pb.KeepAlive, plugin=words, is_held=st.booleans()).map(lambda one: {"keep_alive": one}),
    st.builds(pb.Log, event=words, detail=words).map(lambda one: {"log": one}),
    st.just({"tree_empty": pb.TreeEmpty()}),
)  # fmt: skip


@pytest.mark.promise("P30", "P35")
@settings(max_examples=400, deadline=None)
@given(st.lists(EVENTS, max_size=12), counts)
def test_no_events_of_the_lease_make_the_record_fail(events: list[dict[str, Any]], expected: int) -> None:
    """What is kept is declared, is JSON where it says so, and is marked where something of it is missing."""
    reader = EventReader(lease_id=LEASE_ID, epoch=EPOCH)
    with TemporaryDirectory() as name:
        plugin = PluginRecord(MANIFEST, Path(name))
        record = GuestRecord(directory=Path(name), heartbeat_at=0.0, plugins={"watcher": plugin})
        with contextlib.suppress(GuestLied):
            for position, what in enumerate(events, start=1):
                event = reader.believe(pb.Event(lease_id=LEASE_ID, epoch=EPOCH, position=position, **what))
                if event is not None:
                    record.take(event, 1.0)
        plugin.expect(expected)
        record.close()
        record.write_summary(Path(name) / "summary")
        assert json.loads((Path(name) / "summary").read_bytes())["plugins"]["watcher"] == plugin.summary()
        for one in plugin.evidence():
            assert MANIFEST.declares(one.name, one.kind)
            assert one.kind != "json" or isinstance(json.loads(one.path.read_bytes()), list)
            assert one.is_truncated or plugin.gaps == 0
        assert plugin.fault.isprintable()
