"""Ways in which the guest of a lease can lie, and how the stage that it lies to has to end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from contracts.guest import agent_pb2 as pb
from contracts.ids import derived
from tests.security.lying_guest import LOOT, PID, Abort, LyingGuest, Said, file_of, in_order, never

HONEST = "the truth"
U64 = 2**64 - 1
U32 = 2**32 - 1
BAD_TEXT = b"\xff\xfe\x80"
STRANGE = "\x1b[2J\x00\u202e\r\nname"
Change = Callable[[LyingGuest], None]


@dataclass(frozen=True)
class Ends:
    """How a stage ends, as a pattern: completed, failed for good, or retryable on another machine; and what it says."""

    how: str
    words: str = ""
    keeps_evidence: bool = False


@dataclass(frozen=True)
class Lie:
    """One way to lie. `change` makes an honest guest a liar."""

    name: str
    ends: Ends
    change: Change
    compression: Any = None

    @property
    def task_id(self) -> str:
        """The task whose guest lies so."""
        return derived("tsk", self.name)

    @property
    def lease_id(self) -> str:
        """Its lease."""
        return derived("lea", self.name)


COMPLETED = Ends("completed", keeps_evidence=True)
UNBELIEVED = Ends("completed", "messages of the guest were not believed", keeps_evidence=True)
UNSEALED = Ends("retryable", "the guest did not complete its record")
LOST = Ends("retryable", "the guest was lost")
LOST_LATE = Ends("retryable", "the guest was lost", keeps_evidence=True)


def failed(words: str, *, keeps_evidence: bool = False) -> Ends:
    """Trying again would change nothing."""
    return Ends("failed", words, keeps_evidence=keeps_evidence)


def refused(words: str) -> Ends:
    """Another machine may do."""
    return Ends("retryable", words)


def replies(name: str, answer: Callable[[LyingGuest, Any], Said]) -> Change:
    """The call is answered so."""
    return lambda guest: guest.replies.__setitem__(name, answer)


def hello(**otherwise: Any) -> Change:
    """The honest hello, but for these fields."""

    def answer(guest: LyingGuest, request: Any) -> Said:
        honest = guest.reply("Hello", request)
        honest.MergeFrom(pb.HelloReply(**{name: value for name, value in otherwise.items() if value}))
        for name in (name for name, value in otherwise.items() if not value):
            honest.ClearField(name)
        return honest

    return replies("Hello", answer)


def streams(name: str, stream: Callable[[LyingGuest, Any], AsyncIterator[Said]]) -> Change:
    """The call streams so."""
    return lambda guest: guest.streams.__setitem__(name, stream)


def record(events: Callable[[LyingGuest], list[Said]]) -> Change:
    """The record is this one; the rest is honest."""

    def change(guest: LyingGuest) -> None:
        guest.events = events(guest)

    return change


def files(*frames: Any) -> Change:
    """The files are handed out so."""
    return streams("Collect", lambda _guest, _request: in_order(frames))


def done(omitted: int = 0) -> pb.CollectFrame:
    """No more files."""
    return pb.CollectFrame(done=pb.CollectEnd(files=1, omitted=omitted))


def raw_field(number: int, content: bytes) -> bytes:
    """A length-delimited field on the wire."""
    length, size = len(content), b""
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def nested(depth: int) -> bytes:
    """Groups within groups of a field that nobody knows."""
    return b"\xfb\x01" * depth + b"\xfc\x01" * depth


async def endless(guest: LyingGuest, item: Callable[[int], Said], pause_s: float = 0.0) -> AsyncIterator[Said]:
    """One item after another."""
    yield guest.heartbeat()
    number = 0
    while True:
        number += 1
        yield item(number)
        await asyncio.sleep(pause_s)


def flows(item: Callable[[LyingGuest, int], Said], pause_s: float = 0.0) -> Change:
    """The watch never ends, whatever it is asked."""
    return streams("Watch", lambda guest, _request: endless(guest, lambda number: item(guest, number), pause_s))


async def breaks_off(guest: LyingGuest, request: Any, code: grpc.StatusCode) -> AsyncIterator[Said]:
    """The record, and then an error instead of its seal, each time."""
    yield guest.heartbeat()
    for event in guest.honest_events()[request.after_position :]:
        yield event
    yield Abort(code, STRANGE)


def breaking(code: grpc.StatusCode) -> Change:
    """Each watch breaks off."""
    return streams("Watch", lambda guest, request: breaks_off(guest, request, code))


async def silent(guest: LyingGuest, _request: Any) -> AsyncIterator[Said]:
    """Some evidence, and then nothing for ever."""
    for event in guest.honest_events()[:2]:
        yield event
    await asyncio.sleep(3600)


async def silent_files(_guest: LyingGuest, _request: Any) -> AsyncIterator[Said]:
    """One whole file, half of another, and then nothing for ever."""
    for frame in [*file_of(LOOT), *file_of(b"second")[:2]]:
        yield frame
    await asyncio.sleep(3600)


def flushes(**otherwise: Any) -> Change:
    """The record is flushed, with such a summary of its one source."""

    def answer(guest: LyingGuest, request: Any) -> Said:
        honest = guest.reply("Flush", request)
        del honest.sources[:]
        honest.sources.append(guest.summary(**otherwise))
        return honest

    return replies("Flush", answer)


def many_summaries(guest: LyingGuest, request: Any) -> Said:
    """Thousands of sources that never were."""
    honest = guest.reply("Flush", request)
    honest.sources.extend(pb.SourceSummary(source=f"s{number}", size_bytes=U64) for number in range(10_000))
    return honest


def sealed_early(guest: LyingGuest) -> list[Said]:
    """The record is over before anybody asked for it."""
    return [guest.started(1), guest.evidence(2), guest.event(3, sealed=pb.Sealed())]


def swapped(guest: LyingGuest) -> list[Said]:
    """Two events change places."""
    first, second, third, fourth = guest.honest_events()
    return [first, third, second, fourth]


def sources(names: list[str]) -> Change:
    """Evidence of these sources after the honest one."""

    def events(guest: LyingGuest) -> list[Said]:
        more = [guest.evidence(3 + number, source=name) for number, name in enumerate(names)]
        end = 3 + len(names)
        return [guest.started(1), guest.evidence(2), *more, guest.exited(end), guest.empty(end + 1)]

    return record(events)


def with_third(third: Callable[[LyingGuest], Said]) -> Change:
    """The third event is a lie, and the positions go on honestly."""
    return record(lambda guest: [guest.started(1), guest.evidence(2), third(guest), guest.exited(4), guest.empty(5)])


def foreign(**otherwise: Any) -> Change:
    """A record under another lease's name, or another epoch's; only the signs of life are its own."""

    def events(guest: LyingGuest) -> list[Said]:
        changed = []
        for event in guest.honest_events():
            other = pb.Event.FromString(event.SerializeToString())
            other.MergeFrom(pb.Event(**otherwise))
            changed.append(other)
        return changed

    return record(events)


def bomb(guest: LyingGuest) -> pb.Event:
    """Many zeros that travel as few bytes."""
    return guest.evidence(3, 1, content=bytes(32 * 1024 * 1024))


_HELLO = (
    Lie("a nonce that is another's", refused("the agent is not the one of this lease"), hello(nonce=b"n" * 32)),
    Lie("a nonce left out", refused("the agent is not the one of this lease"), hello(nonce=b"")),
    Lie("a nonce without end", refused("the agent is not the one of this lease"), hello(nonce=b"n" * 900_000)),
    Lie(
        "the lease of another task",
        refused("the agent is not the one of this lease"),
        hello(lease_id=derived("lea", HONEST)),
    ),
    Lie("no lease at all", refused("the agent is not the one of this lease"), hello(lease_id="")),
    Lie("a protocol of the future", refused("the agent speaks protocol 4294967295"), hello(protocol=U32)),
    Lie("a hello of a megabyte of words", COMPLETED, hello(agent_version="v" * 900_000, platform="p" * 1000)),
    Lie("a hello larger than a message", failed("the agent breaks the protocol"), hello(agent_version="v" * 2_000_000)),
    Lie("a version that writes on the screen", COMPLETED, hello(agent_version=STRANGE, boot_id=STRANGE)),
    Lie("ten thousand capabilities", COMPLETED, hello(capabilities=["c"] * 10_000)),
    Lie("ten thousand settings", COMPLETED, hello(settings={str(number): "x" for number in range(10_000)})),
    Lie(
        "words that are no text",
        failed("the agent breaks the protocol"),
        replies("Hello", lambda _g, _r: raw_field(2, BAD_TEXT)),
    ),
    Lie(
        "bytes that are no message",
        failed("the agent breaks the protocol"),
        replies("Hello", lambda _g, _r: b"\xff" * 64),
    ),
    Lie("no answer to hello", LOST, replies("Hello", never)),
)
_STEPS = (
    Lie("a clock that never answers", LOST, replies("SetClock", never)),
    Lie(
        "an error with hostile words",
        failed("the agent breaks the protocol"),
        replies("SetClock", lambda _g, _r: Abort(grpc.StatusCode.INTERNAL, STRANGE)),
    ),
    Lie(
        "an error of a megabyte",
        failed("the agent breaks the protocol"),
        replies("SetClock", lambda _g, _r: Abort(grpc.StatusCode.FAILED_PRECONDITION, "e" * 1_000_000)),
    ),
    Lie(
        "a sample stored nowhere",
        failed("the path of the sample cannot be one"),
        replies("Put", lambda _g, _r: pb.PutReply()),
    ),
    Lie(
        "a sample stored at a relative path",
        failed("the path of the sample cannot be one"),
        replies("Put", lambda _g, _r: pb.PutReply(path="../sample")),
    ),
    Lie(
        "a path that holds a NUL",
        failed("the path of the sample cannot be one"),
        replies("Put", lambda _g, _r: pb.PutReply(path="/a\x00b")),
    ),
    Lie(
        "a path without end",
        failed("the path of the sample cannot be one"),
        replies("Put", lambda _g, _r: pb.PutReply(path="/" + "a" * 100_000)),
    ),
    Lie(
        "a plugin of another version",
        failed("the guest has version 9.9.9 of syscalls, not"),
        replies("InitPlugin", lambda _g, _r: pb.InitPluginReply(version="9.9.9")),
    ),
    Lie(
        "a plugin version without end",
        failed("the guest has version"),
        replies("InitPlugin", lambda _g, _r: pb.InitPluginReply(version="9" * 500_000)),
    ),
    Lie(
        "a plugin that refuses",
        refused("the agent refused"),
        replies("InitPlugin", lambda _g, _r: Abort(grpc.StatusCode.FAILED_PRECONDITION, "no")),
    ),
    Lie(
        "a later driver that never was",
        refused("the agent refused"),
        replies(
            "Arm", lambda _g, _r: Abort(grpc.StatusCode.FAILED_PRECONDITION, "a later driver took this lease over")
        ),
    ),
    Lie(
        "a launch of no process",
        failed("no process has the number 0"),
        replies("Launch", lambda _g, _r: pb.LaunchReply()),
    ),
    Lie(
        "a launch of an impossible process",
        failed("no process has the number 4294967295"),
        replies("Launch", lambda _g, _r: pb.LaunchReply(pid=U32)),
    ),
    Lie(
        "a launch at the end of time",
        COMPLETED,
        replies("Launch", lambda _g, _r: pb.LaunchReply(pid=PID, started_at_ns=U64)),
    ),
    Lie(
        "a launch that failed in hostile words",
        Ends("completed", r"the guest could not run the sample: \[2Jname", keeps_evidence=True),
        replies("Launch", lambda _g, _r: pb.LaunchReply(pid=PID, exec_error=STRANGE * 1000)),
    ),
)
_RECORD = (
    Lie("a record of another lease", UNSEALED, foreign(lease_id=derived("lea", HONEST))),
    Lie("a record of an earlier epoch", UNSEALED, foreign(epoch=6)),
    Lie("a record of a later epoch", UNSEALED, foreign(epoch=U64)),
    Lie("positions out of order", LOST_LATE, record(swapped)),
    Lie("positions that come twice", LOST_LATE, record(lambda g: [e for e in g.honest_events() for _ in range(2)])),
    Lie("positions with a gap", LOST_LATE, record(lambda g: [g.started(1), g.evidence(2), g.exited(9), g.empty(10)])),
    Lie("a position beyond counting", LOST_LATE, with_third(lambda g: g.started(U64))),
    Lie("an event without a position", LOST_LATE, with_third(lambda g: g.started(0))),
    Lie("a process number of nobody", UNBELIEVED, with_third(lambda g: g.started(3, 0))),
    Lie("a process number beyond the kernel's", UNBELIEVED, with_third(lambda g: g.started(3, U32))),
    Lie("an exit code below zero", COMPLETED, with_third(lambda g: g.exited(3, exit_code=-(2**31)))),
    Lie("an exit code beyond a byte", COMPLETED, with_third(lambda g: g.exited(3, exit_code=2**31 - 1))),
    Lie("a signal that is none", COMPLETED, with_third(lambda g: g.exited(3, signal=-9))),
    Lie("an event of no kind", UNBELIEVED, with_third(lambda g: g.event(3))),
    Lie(
        "an event of an unknown kind",
        UNBELIEVED,
        with_third(lambda g: g.event(3).SerializeToString() + raw_field(15, b"x")),
    ),
    Lie(
        "an event that is very deep",
        failed("the agent breaks the protocol", keeps_evidence=True),
        with_third(lambda g: g.event(3).SerializeToString() + nested(10_000)),
    ),
    Lie(
        "an event that is no message",
        failed("the agent breaks the protocol", keeps_evidence=True),
        with_third(lambda _g: b"\xff" * 100),
    ),
    Lie(
        "a log line that is no text",
        failed("the agent breaks the protocol", keeps_evidence=True),
        with_third(lambda g: g.event(3).SerializeToString() + raw_field(9, raw_field(1, BAD_TEXT))),
    ),
    Lie(
        "a log line that writes on the screen",
        COMPLETED,
        with_third(lambda g: g.event(3, log=pb.Log(event=STRANGE, detail="d" * 500_000))),
    ),
    Lie(
        "an event larger than a message",
        failed("the agent breaks the protocol", keeps_evidence=True),
        with_third(lambda g: g.evidence(3, 1, content=bytes(2_000_000))),
    ),
    Lie(
        "a piece of evidence beyond the frame",
        UNBELIEVED,
        with_third(lambda g: g.evidence(3, 1, content=bytes(300_000))),
    ),
    Lie(
        "a compression bomb in the record",
        failed("the agent breaks the protocol", keeps_evidence=True),
        with_third(bomb),
        compression=grpc.Compression.Gzip,
    ),
    Lie("a source that leaves its directory", UNBELIEVED, sources(["../../../../etc/cron.d/x"])),
    Lie("a source with a NUL", UNBELIEVED, sources(["sys\x00calls"])),
    Lie("a source that ends in a newline", UNBELIEVED, sources(["syscalls\n"])),
    Lie("a source without a name", UNBELIEVED, sources([""])),
    Lie("a source with a name without end", UNBELIEVED, sources(["s" * 100_000])),
    Lie("a thousand sources", UNBELIEVED, sources([f"s{number}" for number in range(900)])),
    Lie("a source named like the agent's own result", COMPLETED, sources(["processes", "dropped"])),
    Lie("pieces that come twice", UNBELIEVED, with_third(lambda g: g.evidence(3, 0))),
    Lie(
        "pieces that never came",
        Ends("completed", "4 pieces of evidence never came", keeps_evidence=True),
        with_third(lambda g: g.evidence(3, 5)),
    ),
    Lie(
        "a piece beyond counting",
        Ends("completed", "pieces of evidence never came", keeps_evidence=True),
        with_third(lambda g: g.evidence(3, U64)),
    ),
    Lie(
        "pieces after the last piece",
        UNBELIEVED,
        record(lambda g: [g.started(1), g.evidence(2, is_truncated=True), g.evidence(3, 1), g.exited(4), g.empty(5)]),
    ),
    Lie(
        "a record that ends before it is asked to",
        failed("the guest sealed its record before it was asked to", keeps_evidence=True),
        record(sealed_early),
    ),
    Lie(
        "a sample that ends before it begins",
        COMPLETED,
        record(lambda g: [g.empty(1), g.exited(2), g.started(3), g.evidence(4), g.empty(5)]),
    ),
    Lie("a sample that never ends", COMPLETED, record(lambda g: [g.started(1), g.evidence(2)])),
    Lie(
        "a sample that ends and does not end",
        LOST_LATE,
        flows(lambda g, n: g.empty(n) if n % 2 else g.evidence(n, n // 2 - 1), 0.05),
    ),
    Lie(
        "evidence without end",
        Ends("failed|retryable", "more than 268435456 bytes|the guest was lost", keeps_evidence=True),
        flows(lambda g, n: g.evidence(n, n - 1, content=g.mark if n == 1 else bytes(200_000))),
    ),
    Lie(
        "evidence byte by byte",
        LOST_LATE,
        flows(lambda g, n: g.evidence(n, n - 1, content=g.mark if n == 1 else b"x"), 0.2),
    ),
    Lie("signs of life without end", failed("more than 20000 heartbeats"), flows(lambda g, _n: g.heartbeat())),
    Lie(
        "lies without end", failed("more than 1000 events that cannot be believed"), flows(lambda g, _n: g.started(99))
    ),
    Lie(
        "processes without end",
        LOST_LATE,
        flows(lambda g, n: g.evidence(1) if n == 1 else g.started(n, 1 + n % 30_000)),
    ),
    Lie(
        "log lines without end",
        LOST_LATE,
        flows(lambda g, n: g.evidence(1) if n == 1 else g.event(n, log=pb.Log(event=STRANGE))),
    ),
    Lie("no sign of life", LOST_LATE, streams("Watch", silent)),
    Lie("a watch that breaks again and again", LOST_LATE, breaking(grpc.StatusCode.UNAVAILABLE)),
    Lie("a watch that is cancelled", LOST_LATE, breaking(grpc.StatusCode.CANCELLED)),
    Lie(
        "a watch that ends in an internal error",
        failed("the agent breaks the protocol", keeps_evidence=True),
        breaking(grpc.StatusCode.INTERNAL),
    ),
    Lie(
        "a watch that is refused",
        Ends("retryable", "the agent refused", keeps_evidence=True),
        breaking(grpc.StatusCode.PERMISSION_DENIED),
    ),
)
_END = (
    Lie("a flush that never answers", LOST_LATE, replies("Flush", never)),
    Lie("a flush that is never sealed", LOST_LATE, replies("Flush", lambda _g, _r: pb.FlushReply(last_position=5))),
    Lie("a flush that counts beyond counting", COMPLETED, flushes(frames=U64, size_bytes=U64)),
    Lie("a flush of thousands of sources", COMPLETED, replies("Flush", many_summaries)),
    Lie(
        "evidence that hashes otherwise",
        Ends("completed", "the guest hashed another syscalls than came", keeps_evidence=True),
        flushes(sha256=bytes(32)),
    ),
    Lie(
        "a source that is no text",
        failed("the agent breaks the protocol", keeps_evidence=True),
        replies("Flush", lambda g, r: g.reply("Flush", r).SerializeToString() + raw_field(1, raw_field(1, BAD_TEXT))),
    ),
    Lie("a shutdown that never answers", COMPLETED, replies("Shutdown", never)),
    Lie(
        "a plugin that cannot be shut down",
        COMPLETED,
        replies("ShutdownPlugin", lambda _g, _r: Abort(grpc.StatusCode.INTERNAL, STRANGE)),
    ),
)
_LIED = failed("", keeps_evidence=True)
_CUT = Ends("completed", "collecting files was cut short", keeps_evidence=True)
_FILES = (
    Lie("a file with another hash", _LIED, files(*file_of(LOOT, sha256=bytes(32)), done())),
    Lie("a file with no hash", _LIED, files(*file_of(LOOT, sha256=b""), done())),
    Lie("a file of another size", _LIED, files(*file_of(LOOT, size_bytes=U64), done())),
    Lie("a file of nothing that claims something", _LIED, files(file_of(LOOT)[0], file_of(LOOT)[2], done())),
    Lie("a file without a path", _LIED, files(*file_of(LOOT, b""), done())),
    Lie("a file with a path without end", _LIED, files(*file_of(LOOT, b"/" + b"a" * 5000), done())),
    Lie("a file within a file", _LIED, files(file_of(LOOT)[0], *file_of(LOOT), done())),
    Lie("a piece of no file", _LIED, files(file_of(LOOT)[1], done())),
    Lie("an end of no file", _LIED, files(file_of(LOOT)[2], done())),
    Lie("an end in the middle of a file", _LIED, files(*file_of(LOOT)[:2], done())),
    Lie("a frame that is nothing", _LIED, files(pb.CollectFrame(), done())),
    Lie("a frame that is no message", _LIED, files(*file_of(LOOT), b"\xff" * 100)),
    Lie(
        "a file larger than allowed",
        _LIED,
        files(file_of(LOOT)[0], *[pb.CollectFrame(piece=bytes(1_000_000))] * 18, done()),
    ),
    Lie("more files than allowed", _LIED, files(*file_of(LOOT) * 65, done())),
    Lie(
        "pieces of nothing without end", _LIED, files(file_of(LOOT)[0], *[pb.CollectFrame(piece=b"")] * 10_001, done())
    ),
    Lie(
        "a frame larger than a message", _LIED, files(file_of(LOOT)[0], pb.CollectFrame(piece=bytes(2_000_000)), done())
    ),
    Lie(
        "a compression bomb in a file",
        _LIED,
        files(file_of(LOOT)[0], pb.CollectFrame(piece=bytes(32 * 1024 * 1024)), done()),
        compression=grpc.Compression.Gzip,
    ),
    Lie("files that end early", _CUT, files(*file_of(LOOT))),
    Lie("files that stop coming", _CUT, streams("Collect", silent_files)),
    Lie(
        "files that are refused",
        _CUT,
        streams("Collect", lambda _g, _r: in_order([Abort(grpc.StatusCode.PERMISSION_DENIED)])),
    ),
    Lie("a file that leaves its directory", COMPLETED, files(*file_of(LOOT, b"/tmp/../../../../etc/cron.d/x"), done())),
    Lie("a file whose path is no text", COMPLETED, files(*file_of(LOOT, b"/tmp/\xff\xfe\n\x1b[31m\x00"), done())),
    Lie(
        "more files omitted than exist",
        Ends("completed", "1000000 more files that the sample wrote were not collected", keeps_evidence=True),
        files(*file_of(LOOT), done(U32)),
    ),
    Lie("the same file again and again", COMPLETED, files(*file_of(LOOT) * 60, done())),
)
TRUTH = Lie(HONEST, COMPLETED, lambda _guest: None)
LIES = tuple(sorted((*_HELLO, *_STEPS, *_RECORD, *_END, *_FILES), key=lambda lie: lie.ends not in (LOST, LOST_LATE)))
"""Those that the host's clock has to end come first: they take longest."""
