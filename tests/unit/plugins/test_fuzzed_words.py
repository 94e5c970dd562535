"""Whatever a plugin says, each reader of it comes to a result or to the one refusal that it declares."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from malbox.sdk import frames
from malbox.sdk.rules import Fact
from services.plugins.adapters.control import SAID_MAX_BYTES, Control
from services.plugins.builtin.capabilities.facts import VOCABULARY, Read, facts_of
from services.plugins.children import Told
from services.plugins.errors import SandboxLost
from services.plugins.preparation import Listing

MANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
scalars = st.sampled_from(("idle", "ready", None)) | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


def near(*keys: str) -> st.SearchStrategy[Any]:
    """JSON in which the keys of a schema stand, with anything under them."""
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(keys), inner, max_size=len(keys)),
        max_leaves=15,
    )


def objects(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the keys."""
    return st.dictionaries(st.sampled_from(keys), near(*keys), max_size=len(keys))


def documents(*keys: str) -> st.SearchStrategy[bytes]:
    """Bytes of any kind, and JSON near the schema, also cut off somewhere."""
    said = near(*keys).map(lambda value: json.dumps(value).encode()) | objects(*keys).map(
        lambda value: json.dumps(value).encode()
    )
    cut = st.tuples(said, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])
    return st.binary(max_size=60) | said | cut | st.integers(1, 5000).map(lambda depth: b"[" * depth)


@pytest.mark.promise("P35", "P37")
@MANY
@given(documents("children", "name", "path"))
def test_what_is_told_of_files_inside_is_read_or_refused(content: bytes) -> None:
    """A list of names, or ValidationError, which the reader of it takes for nothing told."""
    try:
        told = Told.model_validate_json(content)
    except ValidationError:
        return
    assert all(isinstance(one.name, str) and isinstance(one.path, str) for one in told.children)


@pytest.mark.promise("P35", "P37")
@MANY
@given(documents("chosen", "is_locked", "count", "entries"))
def test_what_is_said_of_an_archive_is_read_or_refused(content: bytes) -> None:
    """A name without control characters, or ValidationError."""
    try:
        listing = Listing.model_validate_json(content)
    except ValidationError:
        return
    assert not any(char < " " for char in listing.chosen)
    assert isinstance(listing.is_locked, bool)


names = ("pe", "elf", "macho", "dotnet", "scripts")
keys = (
    *("imports", "library", "functions", "exports", "sections", "name", "libraries", "way", "names"),
    *("entitlements", "references", "members_used", "layers", "language", "text"),
)


@pytest.mark.promise("P35")
@MANY
@given(said=st.dictionaries(st.sampled_from(names), near(*keys) | objects(*keys)), strings=st.binary(max_size=200))
def test_facts_come_of_any_document_and_have_the_fields_of_their_kind(
    said: dict[str, Any], strings: bytes, tmp_path: Path
) -> None:
    """What does not have its form is passed over; no document makes it fail."""
    path = tmp_path / "strings"
    path.write_bytes(strings)
    for fact in facts_of(Read(said, path)):
        assert isinstance(fact, Fact)
        assert set(fact.fields) <= set(VOCABULARY[fact.kind])
        assert all(isinstance(value, str) for value in fact.fields.values())


def framed(content: bytes) -> bytes:
    """As the sandbox's first process would send it."""
    return frames.encode(frames.JSON_KIND, content)


@pytest.mark.promise("P35", "P37")
@MANY
@given(sent=st.binary(max_size=80) | documents("frame", "status", "reason", "landlock").map(framed))
async def test_a_sandbox_that_says_anything_is_heard_or_lost(sent: bytes) -> None:
    """One of the frames that were expected, or SandboxLost; nothing else, however it is put."""
    ours, theirs = socket.socketpair()
    control = Control(ours)
    try:
        theirs.sendall(sent)
        theirs.close()
        said = await control.hear("idle", "ready")
    except SandboxLost:
        return
    finally:
        control.close()
    assert said["frame"] in ("idle", "ready")


async def test_more_than_a_frame_may_hold_is_a_lost_sandbox() -> None:
    """The bound of what is said on the control socket is below that of a frame."""
    ours, theirs = socket.socketpair()
    control = Control(ours)
    theirs.sendall(frames.HEADER.pack(frames.JSON_KIND, SAID_MAX_BYTES + 1))
    with pytest.raises(SandboxLost):
        await control.hear("idle")
    control.close()
    theirs.close()
