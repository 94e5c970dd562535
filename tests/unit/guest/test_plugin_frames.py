"""The agent's decoders of what a plugin's process and the host send: whatever comes is taken, or refused in words."""

import contextlib
import hashlib
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.guest import agent_pb2 as pb
from guest import limits
from guest.journal import Journal
from guest.platforms import PluginProgram
from guest.plugins import frames
from guest.plugins.process import PluginProcess
from guest.receiving import StepRefused, receive
from tests.unit.guest.bundled import Unconfined

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**62,
    2**70,
    1e400,
    "",
    "seen",
    "json",
    "a/b",
    "\0",
    "\ud800",
    "x" * 500,
    [],
    {},
]
odd: st.SearchStrategy[Any] = st.sampled_from(ODD) | st.text(max_size=8)
said = st.fixed_dictionaries(
    {"frame": st.sampled_from(["evidence", "ended", "done"]) | odd},
    optional={
        "sequence": odd, "name": odd, "kind": odd, "media_type": odd, "is_last": odd, "call": odd, "reason": odd,
        "outcome": odd | st.sampled_from(["failed", "crashed", "skipped", "completed"]),
    },
)  # fmt: skip
piece = (
    (said | st.just({"frame": "ended", "outcome": "failed", "reason": "\ud800"})).map(frames.encode)
    | st.binary(max_size=6).map(lambda content: frames.HEADER.pack(frames.BYTES_KIND, len(content)) + content)
    | st.binary(max_size=12)
)


@pytest.mark.promise("P30", "P35")
@settings(max_examples=400, deadline=None)
@given(st.lists(piece, max_size=6))
def test_whatever_a_plugin_writes_has_an_outcome_that_can_be_said(pieces: list[bytes]) -> None:
    """It ends it, in words that go over the wire, and the journal has as many pieces as are counted."""
    with TemporaryDirectory() as name, contextlib.closing(Journal(Path(name), lease_id="lea_x", epoch=1)) as journal:
        program = PluginProgram("watcher", 61184, Path(name), Path(name), 64, 1, ())
        process = PluginProcess(Unconfined(), program, journal, timeout_s=1)
        process._read(io.BytesIO(b"".join(pieces)))
        ending = process.end()
        assert pb.ShutdownPluginReply.FromString(ending.SerializeToString()).outcome in {"failed", "crashed", "skipped"}
        kept = journal.after(0, wait_s=0, count_max=100)
        assert [event.plugin_evidence.plugin for event in kept] == ["watcher"] * ending.pieces


@pytest.mark.promise("P30")
def test_the_words_of_a_plugin_that_ends_itself_are_kept_though_they_are_no_text() -> None:
    """Half a character does not cost the outcome that it stands in."""
    with TemporaryDirectory() as name, contextlib.closing(Journal(Path(name), lease_id="lea_x", epoch=1)) as journal:
        program = PluginProgram("watcher", 61184, Path(name), Path(name), 64, 1, ())
        process = PluginProcess(Unconfined(), program, journal, timeout_s=1)
        process._read(io.BytesIO(frames.encode({"frame": "ended", "outcome": "skipped", "reason": "a\ud800b"})))
        ending = process.end()
    assert (ending.outcome, ending.reason) == ("skipped", "a?b")


@pytest.mark.promise("P31")
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(max_size=5), max_size=4), st.integers(0, 2**64 - 1) | st.integers(0, 12), st.binary(max_size=33)
)
def test_a_file_is_put_whole_or_refused(pieces: list[bytes], size_bytes: int, digest: bytes) -> None:
    """The header is believed where size and digest are those of the bytes, and nowhere else."""
    content = b"".join(pieces)
    honest = pb.PutHeader(name="x", size_bytes=len(content), sha256=hashlib.sha256(content).digest())
    with TemporaryDirectory() as name:
        part = Path(name) / "part"
        receive(part, honest, iter(pieces))
        assert part.read_bytes() == content
        for lie in (
            pb.PutHeader(name="x", size_bytes=len(content), sha256=digest),
            pb.PutHeader(name="x", size_bytes=size_bytes, sha256=honest.sha256),
        ):
            if lie != honest:
                with pytest.raises(StepRefused):
                    receive(part, lie, iter(pieces))


@given(st.binary(max_size=40) | said.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_are_read_as_anything_but_a_frame(content: bytes) -> None:
    """An object, the end, or a refusal; and nothing is read that is longer than it may be."""
    for stream in (content, frames.HEADER.pack(frames.JSON_KIND, len(content)) + content):
        with contextlib.suppress(frames.FrameRefused):
            assert isinstance(frames.read_json(io.BytesIO(stream)), dict | None)
    huge = io.BytesIO(frames.HEADER.pack(frames.JSON_KIND, limits.PLUGIN_JSON_MAX_BYTES + 1) + content)
    with pytest.raises(frames.FrameRefused, match="the limit is"):
        frames.read_json(huge)
    assert huge.tell() == frames.HEADER.size
