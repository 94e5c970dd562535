"""One call of the agent: what comes of it, and how a file is streamed to it."""

import hashlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

import grpc

from contracts.guest import agent_pb2 as pb
from services.chassis.crash_points import Point, around
from services.plugins.adapters.guest_events import bounded_text, legible
from services.plugins.ports_guest import GuestLied, GuestRefused, GuestUnreachable, SourceSummary

_PIECE_BYTES = 256 * 1024
_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)

Reply = TypeVar("Reply")


async def reply_of(call: Awaitable[Reply]) -> Reply:
    """The reply of a call that carries its deadline. Raises GuestUnreachable, GuestRefused, GuestLied."""
    try:
        with around(Point.AGENT_BEFORE, Point.AGENT_AFTER):
            return legible(await call)
    except grpc.aio.AioRpcError as error:
        raise translated(error) from error


def translated(error: grpc.aio.AioRpcError) -> GuestUnreachable | GuestRefused | GuestLied:
    """What gRPC's error means here."""
    reason = f"{error.code().name}: {bounded_text(error.details() or '')}"
    if error.code() in _UNREACHABLE:
        return GuestUnreachable(f"the agent does not answer: {reason}")
    if error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL):
        return GuestLied(f"the agent breaks the protocol: {reason}")
    return GuestRefused(f"the agent refused: {reason}")


async def frames_of(header: pb.PutHeader, source: Path) -> AsyncIterator[pb.PutFrame]:
    """The header and then the file, as `Put` takes them. Raises OSError."""
    yield pb.PutFrame(header=header)
    with source.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield pb.PutFrame(piece=piece)


def measure(source: Path) -> tuple[int, bytes]:
    """Size and sha256 of a file. Raises OSError."""
    with source.open("rb") as file:
        return source.stat().st_size, hashlib.file_digest(file, "sha256").digest()


def summary_of(source: pb.SourceSummary) -> SourceSummary:
    """What the agent says of one source, bounded."""
    return SourceSummary(
        source=bounded_text(source.source),
        frames=source.frames,
        size_bytes=source.size_bytes,
        sha256=source.sha256[:32].hex(),
        is_truncated=source.is_truncated,
    )
