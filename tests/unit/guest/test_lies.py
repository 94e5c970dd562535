"""Ways in which a guest can lie to its host, each contained; the truth beside them is believed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.guest import agent_pb2 as pb
from services.plugins.adapters import guest_collect, guest_events
from services.plugins.adapters.guest_collect import display_path, receive_files
from services.plugins.adapters.guest_events import EventReader, bounded_text
from services.plugins.ports_guest import (
    CollectedFile,
    EvidenceFrame,
    GuestLied,
    GuestLog,
    GuestUnreachable,
    Heartbeat,
    ProcessExited,
    ProcessStarted,
)

LEASE_ID = "lea_" + "ab" * 16
EPOCH = 7
CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).digest()


def an_event(position: int = 1, *, lease_id: str = LEASE_ID, epoch: int = EPOCH, **what: object) -> pb.Event:
    """An event of the lease; a started process unless said otherwise."""
    event = pb.Event(lease_id=lease_id, epoch=epoch, position=position)
    event.MergeFrom(pb.Event(**(what or {"process_started": pb.ProcessStarted(pid=1)})))  # type: ignore[arg-type]
    return event


def a_frame(position: int = 1, sequence: int = 0, content: bytes = b"x", source: str = "syscalls") -> pb.Event:
    """A piece of evidence."""
    return an_event(position, evidence=pb.Evidence(source=source, sequence=sequence, content=content))


def a_reader() -> EventReader:
    """A reader of the lease's stream."""
    return EventReader(lease_id=LEASE_ID, epoch=EPOCH)


async def stream_of(items: Iterable[object], *, then_silent: bool = False) -> AsyncIterator[object]:
    """A stream of these, which then ends or says nothing more."""
    for item in items:
        yield item
    if then_silent:
        await asyncio.sleep(3600)


@pytest.mark.promise("P28", "P29")
@pytest.mark.parametrize(
    "lie",
    [
        an_event(lease_id="lea_" + "cd" * 16),
        an_event(lease_id=""),
        an_event(epoch=EPOCH - 1),
        an_event(epoch=EPOCH + 1),
        an_event(0),
        an_event(2),
        an_event(2**64 - 1),
        an_event(process_started=pb.ProcessStarted(pid=0)),
        an_event(process_started=pb.ProcessStarted(pid=2**32 - 1)),
        an_event(process_exited=pb.ProcessExited(pid=0, exit_code=0)),
        pb.Event(lease_id=LEASE_ID, epoch=EPOCH, position=1),
        pb.Event(),
        a_frame(source=""),
        a_frame(source="../../etc/passwd"),
        a_frame(source="A" * 1000),
        a_frame(source="sys\x00calls"),
        a_frame(content=bytes(guest_events.FRAME_MAX_BYTES + 1)),
    ],
)
def test_an_event_that_cannot_be_believed_is_dropped_and_counted(lie: pb.Event) -> None:
    """It yields nothing, and the count of refused events says so; a true one is believed."""
    reader = a_reader()
    assert reader.believe(lie) is None
    assert reader.refused == 1
    assert a_reader().believe(an_event()) == ProcessStarted(1, 1, is_first=False)


@pytest.mark.promise("P30")
def test_an_event_that_comes_twice_counts_once() -> None:
    """A repeated position is refused, so nothing is told twice."""
    reader = a_reader()
    assert reader.believe(a_frame(1)) is not None
    assert reader.believe(a_frame(1)) is None
    assert reader.believe(a_frame(2, sequence=0)) is None
    assert reader.refused == 2


@pytest.mark.promise("P30")
def test_a_gap_in_the_frames_of_a_source_is_visible() -> None:
    """Frames that never came are counted in the frame after them."""
    reader = a_reader()
    reader.believe(a_frame(1, sequence=0))
    frame = reader.believe(a_frame(2, sequence=5))
    assert isinstance(frame, EvidenceFrame)
    assert frame.gap_frames == 4


@pytest.mark.promise("P30")
def test_a_source_that_said_it_was_full_says_no_more() -> None:
    """After the truncated piece, pieces of that source are refused; other sources go on."""
    reader = a_reader()
    last = pb.Evidence(source="stdout", sequence=0, content=b"x", is_truncated=True)
    assert reader.believe(an_event(1, evidence=last)) is not None
    assert reader.believe(a_frame(2, sequence=1, source="stdout")) is None
    assert reader.believe(a_frame(3, source="stderr")) is not None


@pytest.mark.promise("P30")
def test_too_many_sources_are_refused() -> None:
    """A ninth source is one too many."""
    reader = a_reader()
    answers = [reader.believe(a_frame(number + 1, source=f"s{number}")) for number in range(9)]
    assert [answer is None for answer in answers] == [False] * 8 + [True]


@pytest.mark.promise("P30")
@pytest.mark.parametrize(
    ("exited", "code", "signal"),
    [
        (pb.ProcessExited(pid=1, exit_code=0), 0, None),
        (pb.ProcessExited(pid=1, exit_code=255), 255, None),
        (pb.ProcessExited(pid=1, signal=9), None, 9),
        (pb.ProcessExited(pid=1, exit_code=-1), None, None),
        (pb.ProcessExited(pid=1, exit_code=2**31 - 1), None, None),
        (pb.ProcessExited(pid=1, signal=0), None, None),
        (pb.ProcessExited(pid=1, signal=-9), None, None),
        (pb.ProcessExited(pid=1, signal=65), None, None),
        (pb.ProcessExited(pid=1), None, None),
    ],
)
def test_impossible_ends_of_a_process_are_unknown_ends(
    exited: pb.ProcessExited, code: int | None, signal: int | None
) -> None:
    """Only exit codes and signals that exist are handed on."""
    event = a_reader().believe(an_event(process_exited=exited))
    assert isinstance(event, ProcessExited)
    assert (event.exit_code, event.signal) == (code, signal)


@pytest.mark.promise("P30")
def test_endless_lies_end_the_stream() -> None:
    """The thousandth refused event is the last that is read."""
    reader = a_reader()
    for _ in range(guest_events.REFUSED_MAX):
        assert reader.believe(an_event(99)) is None
    with pytest.raises(GuestLied):
        reader.believe(an_event(99))


@pytest.mark.promise("P30")
def test_endless_evidence_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the host's own bound of a source nothing more is read."""
    monkeypatch.setattr(guest_events, "SOURCE_MAX_BYTES", 10)
    reader = a_reader()
    assert reader.believe(a_frame(1, content=b"x" * 10)) is not None
    with pytest.raises(GuestLied):
        reader.believe(a_frame(2, sequence=1))


@pytest.mark.promise("P30")
def test_endless_heartbeats_end_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats faster than time allows are a lie."""
    monkeypatch.setattr(guest_events, "BEATS_PER_WATCH_MAX", 3)
    reader = a_reader()
    beat = an_event(0, heartbeat=pb.Heartbeat(beat=1))
    assert [reader.believe(beat) for _ in range(3)] == [Heartbeat(1)] * 3
    with pytest.raises(GuestLied):
        reader.believe(beat)


@pytest.mark.promise("P30")
def test_the_guests_words_are_short_and_printable() -> None:
    """Control characters, bidirectional marks and endless text do not reach a log or a screen."""
    event = a_reader().believe(an_event(log=pb.Log(event="a\x1b[2J\nb\u202e", detail="d" * 100_000)))
    assert isinstance(event, GuestLog)
    assert event.event == "a[2Jb"
    assert len(event.detail) == 1000
    assert bounded_text("\x00\x07ok") == "ok"


@pytest.mark.promise("P30", "P32")
async def test_a_silent_guest_is_a_lost_guest() -> None:
    """When no event and no heartbeat come in the host's time, the guest is unreachable, not done."""
    stream = stream_of([an_event()], then_silent=True)
    events = a_reader().read(stream, silence_max_s=0.05)  # type: ignore[arg-type]
    assert await anext(events) == ProcessStarted(1, 1, is_first=False)
    with pytest.raises(GuestUnreachable, match="no heartbeat"):
        await anext(events)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_bytes_that_parse_as_an_event_break_the_reader(content: bytes) -> None:
    """Whatever protobuf accepts is believed, refused, or a lie that is named."""
    try:
        raw = pb.Event.FromString(content)
    except Exception:  # noqa: BLE001 - what is not a message never reaches the reader
        return
    reader = a_reader()
    assert reader.believe(raw) is None
    assert reader.refused == 1


def contents_of(folder: Path) -> list[bytes]:
    """What the files of the folder hold."""
    return [path.read_bytes() for path in folder.iterdir()]


def start(path: bytes = b"/home/sample/a") -> pb.CollectFrame:
    """A file begins."""
    return pb.CollectFrame(start=pb.FileStart(path=path, size_bytes=len(CONTENT)))


def piece(content: bytes = CONTENT) -> pb.CollectFrame:
    """A piece of it."""
    return pb.CollectFrame(piece=content)


def end(size_bytes: int = len(CONTENT), sha256: bytes = SHA256) -> pb.CollectFrame:
    """It is whole."""
    return pb.CollectFrame(end=pb.FileEnd(size_bytes=size_bytes, sha256=sha256))


def done(omitted: int = 0) -> pb.CollectFrame:
    """No more files."""
    return pb.CollectFrame(done=pb.CollectEnd(files=1, omitted=omitted))


@pytest.mark.promise("P31")
async def test_a_file_is_the_bytes_that_the_host_hashed(tmp_path: Path) -> None:
    """Name on this host, hash and size are the host's own; the guest's path is only shown."""
    frames = [start(b"/tmp/../../etc/\xff\n\x1b[31m"), piece(), end(), done(omitted=2**32 - 1)]
    files: list[CollectedFile] = []
    omitted = await receive_files(stream_of(frames), tmp_path, files)  # type: ignore[arg-type]
    file = files[0]
    assert file.path == tmp_path / "0000"
    assert file.path.read_bytes() == CONTENT
    assert file.sha256 == SHA256.hex()
    assert file.guest_path == "/tmp/../../etc/\ufffd??[31m"
    assert omitted == guest_collect.OMITTED_MAX


@pytest.mark.promise("P30", "P31")
@pytest.mark.parametrize(
    "frames",
    [
        [start(), piece(), end(sha256=b"\0" * 32), done()],
        [start(), piece(), end(sha256=b""), done()],
        [start(), piece(), end(size_bytes=0), done()],
        [start(), piece(), end(size_bytes=2**63), done()],
        [start(), end(), done()],
        [start(b""), piece(), end(), done()],
        [start(b"/" + b"a" * 5000), piece(), end(), done()],
        [start(), start(), piece(), end(), done()],
        [piece(), end(), done()],
        [end(), done()],
        [start(), piece(), done()],
        [start(), piece(), pb.CollectFrame(), end(), done()],
        [start(), *[piece(bytes(1024 * 1024))] * 17, end(), done()],
        [start(), *[piece(b"")] * 10_001, end(), done()],
        [*[start(), piece(), end()] * 65, done()],
    ],
)
async def test_a_lie_about_a_file_ends_the_collection_and_leaves_no_part(
    frames: list[pb.CollectFrame], tmp_path: Path
) -> None:
    """A wrong hash or size, an impossible order, path, number or length is named; no unfinished file stays."""
    with pytest.raises(GuestLied):
        await receive_files(stream_of(frames), tmp_path, [])  # type: ignore[arg-type]
    assert all(content == CONTENT for content in contents_of(tmp_path))


@pytest.mark.promise("P30", "P31")
async def test_a_stream_of_files_that_ends_early_is_a_lost_guest(tmp_path: Path) -> None:
    """Half a file is no file."""
    with pytest.raises(GuestUnreachable):
        await receive_files(stream_of([start(), piece(b"con")]), tmp_path, [])  # type: ignore[arg-type]
    assert contents_of(tmp_path) == []


@given(st.binary(max_size=300))
def test_every_path_can_be_shown(path: bytes) -> None:
    """A path of any bytes becomes printable text."""
    assert display_path(path).isprintable()
