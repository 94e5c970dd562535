"""Lies in the files that the agent hands out at the end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from contracts.guest import agent_pb2 as pb
from tests.security.lying import (
    COMPLETED,
    U32,
    U64,
    Change,
    Ends,
    Lie,
    failed,
    streams,
)
from tests.security.lying_guest import LOOT, Abort, LyingGuest, Said, file_of, in_order


def files(*frames: Any) -> Change:
    """The files are handed out so."""
    return streams("Collect", lambda _guest, _request: in_order(frames))


def done(omitted: int = 0) -> pb.CollectFrame:
    """No more files."""
    return pb.CollectFrame(done=pb.CollectEnd(files=1, omitted=omitted))


async def silent_files(_guest: LyingGuest, _request: Any) -> AsyncIterator[Said]:
    """One whole file, half of another, and then nothing for ever."""
    for frame in [*file_of(LOOT), *file_of(b"second")[:2]]:
        yield frame
    await asyncio.sleep(3600)


_LIED = failed("", keeps_evidence=True)
_CUT = Ends("completed", "collecting files was cut short", keeps_evidence=True)
FILES = (
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
