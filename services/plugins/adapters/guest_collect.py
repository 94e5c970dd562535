"""Receives the files that a sample wrote: under names of our own, bounded in number and size, hashed here.

A file stands in the directory whole or not at all. What the guest says of a file is compared with what came.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from contracts import limits
from contracts.guest import agent_pb2 as pb
from services.plugins.adapters.guest_events import legible
from services.plugins.ports_guest import CollectedFile, GuestLied, GuestUnreachable

FILES_MAX = limits.ARTIFACTS_PER_RUN_MAX
FILE_MAX_BYTES = 16 * 1024 * 1024
TOTAL_MAX_BYTES = 512 * 1024 * 1024
FRAMES_MAX = 10_000
OMITTED_MAX = 1_000_000
PATH_MAX_BYTES = 4096
_SILENCE_MAX_S = 20.0


@dataclass
class _Receiving:
    """A file of which pieces still come."""

    start: pb.FileStart
    path: Path
    file: BinaryIO
    size_bytes: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


async def receive_files(stream: AsyncIterable[pb.CollectFrame], into: Path, files: list[CollectedFile]) -> int:
    """Every file of the stream is added to `files` as it is whole; how many more there were is returned.

    Raises GuestLied, GuestUnreachable, OSError; then no unfinished file is left.
    """
    receiving: _Receiving | None = None
    total, frames = 0, 0
    try:
        async for frame in _in_time(stream):
            frames += 1
            if frames > FRAMES_MAX:
                raise GuestLied(f"more than {FRAMES_MAX} frames of files")
            part = frame.WhichOneof("part")
            if part == "start" and receiving is None and len(files) < FILES_MAX:
                receiving = _begin(frame.start, into / f"{len(files):04d}")
            elif part == "piece" and receiving is not None:
                total += len(frame.piece)
                _append(receiving, frame.piece, total)
            elif part == "end" and receiving is not None:
                files.append(_finish(receiving, frame.end))
                receiving = None
            elif part == "done" and receiving is None:
                return min(frame.done.omitted, OMITTED_MAX)
            else:
                raise GuestLied("frames of files come in an impossible order")
    finally:
        if receiving is not None:
            receiving.file.close()
            receiving.path.unlink(missing_ok=True)
    raise GuestUnreachable("the stream of files ended early")


async def _in_time(stream: AsyncIterable[pb.CollectFrame]) -> AsyncGenerator[pb.CollectFrame, None]:
    iterator = aiter(stream)
    while True:  # bounded by the reader
        try:
            async with asyncio.timeout(_SILENCE_MAX_S):
                frame = legible(await anext(iterator))
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise GuestUnreachable(f"no piece of a file for {_SILENCE_MAX_S:.0f} s") from error
        yield frame


def _begin(start: pb.FileStart, path: Path) -> _Receiving:
    if not 0 < len(start.path) <= PATH_MAX_BYTES:
        raise GuestLied("a file has no path, or an impossible one")
    return _Receiving(start, path, path.open("xb"))


def _append(receiving: _Receiving, piece: bytes, total: int) -> None:
    receiving.size_bytes += len(piece)
    if receiving.size_bytes > FILE_MAX_BYTES or total > TOTAL_MAX_BYTES:
        raise GuestLied("more bytes of files than are allowed")
    receiving.file.write(piece)
    receiving.digest.update(piece)


def _finish(receiving: _Receiving, end: pb.FileEnd) -> CollectedFile:
    if end.size_bytes != receiving.size_bytes or end.sha256 != receiving.digest.digest():
        raise GuestLied("a file's bytes are not those that the guest hashed")
    receiving.file.close()
    return CollectedFile(
        path=receiving.path,
        guest_path=display_path(receiving.start.path),
        sha256=receiving.digest.hexdigest(),
        size_bytes=receiving.size_bytes,
        is_deleted=receiving.start.is_deleted,
        is_truncated=end.is_truncated,
    )


def display_path(path: bytes) -> str:
    """The path as text, with `?` for what cannot or should not be shown."""
    text = path.decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text)
