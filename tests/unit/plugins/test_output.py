"""The decoder of what a sandboxed plugin writes: whatever comes is taken, or refused as the plugin's own fault."""

import asyncio
import json
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malbox.sdk import frames
from malbox.sdk.manifest import Manifest
from services.plugins.adapters.output import LOG_MAX_BYTES, Output
from services.plugins.adapters.pipe_reader import PipeReader
from services.plugins.errors import OutputRefused

MANIFEST = Manifest.model_validate(
    {
        "plugin": {"name": "counter", "version": "1.0.0", "description": "Counts.", "kind": "host"},
        "applies": {"stages": ["static"]},
        "results": {
            "said": {"kind": "json", "title": "S"},
            "file": {"kind": "file", "title": "F", "is_many": True},
            "shaped": {"kind": "json", "title": "H", "schema": {"type": "array"}},
        },
    }
)
ODD: list[Any] = [None, True, -1, 0, 3, 2**70, 1e400, "", "said", "file/a", "file/../b", "json", "\0", "\ud800", [], {}]
odd: st.SearchStrategy[Any] = st.sampled_from(ODD) | st.text(max_size=8)
said: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"frame": st.sampled_from(["log", "result", "outcome", "ready"]) | odd},
    optional={
        "event": odd, "keys": odd | st.dictionaries(st.text(max_size=4), odd, max_size=3),
        "name": odd, "kind": odd, "media_type": odd | st.just("a/b"), "size_bytes": odd,
        "outcome": odd | st.sampled_from(["completed", "failed", "skipped"]), "reason": odd,
    },
)  # fmt: skip
honest: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"frame": "result", "name": "said", "kind": "json", "media_type": "application/json", "size_bytes": 3},
        {"frame": "result", "name": "file/a", "kind": "file", "media_type": "a/b", "size_bytes": 3},
        {"frame": "outcome", "outcome": "failed", "reason": "a\0b\ud800"},
    ]
)
piece = (
    (said | honest).map(frames.encode_json)
    | st.binary(max_size=6).map(lambda content: frames.encode(frames.BYTES_KIND, content))
    | st.binary(max_size=6).map(lambda content: frames.encode(frames.JSON_KIND, content))
    | st.binary(max_size=12)
)


def taken(content: bytes) -> tuple[Output, list[bytes], str]:
    """What was made of those bytes: the output, the bytes of its results, and why the rest was refused."""
    with TemporaryDirectory() as spool:
        output, fault = Output(manifest=MANIFEST, spool_dir=Path(spool)), ""
        try:
            asyncio.run(_read(output, content))
        except OutputRefused as refused:
            fault = str(refused)
        return output, [one.path.read_bytes() for one in output.results], fault


async def _read(output: Output, content: bytes) -> None:
    read_end, write_end = os.pipe()
    reader = PipeReader(read_end)
    writer = threading.Thread(target=_write, args=(write_end, content))
    writer.start()
    try:
        await output.read(reader)
    finally:
        reader.close()
        writer.join()


def _write(write_end: int, content: bytes) -> None:
    try:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(content)
    except BrokenPipeError:
        return


@pytest.mark.promise("P35", "P37")
@settings(max_examples=400, deadline=None)
@given(st.lists(piece, max_size=6))
def test_no_bytes_make_reading_fail_in_any_other_way(pieces: list[bytes]) -> None:
    """Whatever was believed is whole, declared, bounded, and can be stored; all else is refused with words."""
    output, contents, _fault = taken(b"".join(pieces))
    assert [len(content) for content in contents] == [one.size_bytes for one in output.results]
    assert all(MANIFEST.declares(one.name, one.kind) for one in output.results)
    assert len(output.log) <= LOG_MAX_BYTES
    assert "\0" not in output.reason
    assert output.reason.encode().decode() == output.reason
    assert "\0" not in output.log.decode()


def test_a_log_that_is_cut_says_how_much_is_left_out() -> None:
    """Within the bound that holds for logs; one that is not cut, the control, is told as it came."""
    output = Output(manifest=MANIFEST, spool_dir=Path())
    output.append_log(b"x" * 1000)
    assert output.told_log == b"x" * 1000
    output.append_log(b"x" * LOG_MAX_BYTES)
    kept, _, words = output.told_log.decode().partition("\n")
    assert words == f"[{1000 + LOG_MAX_BYTES - len(kept)} bytes more of log were not kept]\n"
    assert len(output.told_log) <= LOG_MAX_BYTES


@pytest.mark.promise("P35", "P37")
@pytest.mark.parametrize("event", [2**70, "\ud800", "a\0b", 1e400], ids=["large", "half", "nul", "endless"])
def test_whatever_json_can_say_is_a_line_of_the_log(event: object) -> None:
    """An honest plugin logs a hostile name; that costs neither its run nor its stage."""
    output, _contents, fault = taken(frames.encode_json({"frame": "log", "event": event, "keys": {}}))
    assert fault == ""
    assert json.loads(output.log)["event"] == event


@pytest.mark.promise("P35")
def test_a_line_of_the_log_that_is_too_deep_is_refused() -> None:
    """Nesting ends the plugin's run and nothing else, however deep it is."""
    for depth in (300, 900, 20_000):
        output, _contents, fault = taken(
            frames.encode(frames.JSON_KIND, b'{"frame":"log","event":' + b"[" * depth + b"]" * depth + b"}")
        )
        assert fault or output.log


@pytest.mark.promise("P35", "P37")
def test_the_words_of_an_outcome_can_be_stored() -> None:
    """PostgreSQL stores no NUL and nothing carries half a character; what a hostile file made a plugin say has both."""
    output, _contents, fault = taken(
        frames.encode_json({"frame": "outcome", "outcome": "failed", "reason": "a\0b\ud800c"})
    )
    assert (output.outcome, output.reason, fault) == ("failed", "ab?c", "")


@pytest.mark.parametrize("filling", [0, 5000], ids=["at_once", "in_a_thread"])
def test_a_result_that_breaks_its_schema_is_not_kept(filling: int) -> None:
    """What came before it stays; the run's fault names the result and the place in the schema."""

    def shaped(content: bytes) -> bytes:
        head = {"name": "shaped", "kind": "json", "media_type": "application/json", "size_bytes": len(content)}
        return frames.encode_json({"frame": "result", **head}) + frames.encode(frames.BYTES_KIND, content)

    fitting, breaking = b"[1]" + b" " * filling, b"{}" + b" " * filling
    assert taken(shaped(fitting))[1:] == ([fitting], "")
    assert taken(shaped(breaking))[1:] == ([], "result shaped breaks its schema at type")
