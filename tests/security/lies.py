"""Every way in which the guest of a lease can lie, and how the stage that it lies to has to end."""

from typing import Any

import grpc

from contracts.guest import agent_pb2 as pb
from contracts.ids import derived
from tests.security.lies_collected import FILES
from tests.security.lies_of_plugins import PLUGINS
from tests.security.lies_recorded import RECORD
from tests.security.lying import (
    BAD_TEXT,
    COMPLETED,
    HONEST,
    LOST,
    LOST_LATE,
    STRANGE,
    U32,
    U64,
    Change,
    Ends,
    Lie,
    failed,
    raw_field,
    refused,
    replies,
)
from tests.security.lying_guest import PID, Abort, LyingGuest, Said, never


def hello(**otherwise: Any) -> Change:
    """The honest hello, but for these fields."""

    def answer(guest: LyingGuest, request: Any) -> Said:
        honest = guest.reply("Hello", request)
        honest.MergeFrom(pb.HelloReply(**{name: value for name, value in otherwise.items() if value}))
        for name in (name for name, value in otherwise.items() if not value):
            honest.ClearField(name)
        return honest

    return replies("Hello", answer)


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
TRUTH = Lie(HONEST, COMPLETED, lambda _guest: None)
LIES = tuple(
    sorted((*_HELLO, *_STEPS, *RECORD, *_END, *FILES, *PLUGINS), key=lambda lie: lie.ends not in (LOST, LOST_LATE))
)
"""Those that the host's clock has to end come first: they take longest."""
