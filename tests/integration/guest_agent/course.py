"""The course of a sample in a real agent: started, watched, ended, its files handed out."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from services.plugins.adapters.guest_agent import GrpcGuestSession
from services.plugins.ports_guest import (
    Collected,
    EvidenceFrame,
    Flushed,
    GuestEvent,
    Launched,
    RecordSealed,
)

ASLEEP = b'["sleep", "300"]'
"""Traced once a script has done all that it does before it sleeps."""


async def start(session: GrpcGuestSession, folder: Path, script: str, interpreter: str = "/bin/sh") -> Launched:
    """A script runs under the armed tracer."""
    source = folder / "source"
    source.write_text(script, encoding="utf-8")
    path = await session.put(source, "sample.sh")
    await session.init_plugin("syscalls", {})
    await session.arm()
    return await session.launch((interpreter, path))


async def watch_until(session: GrpcGuestSession, kind: type[GuestEvent], *, timeout_s: float = 60) -> list[GuestEvent]:
    """The events up to the first of that kind."""
    seen: list[GuestEvent] = []
    stream = session.watch()
    async with asyncio.timeout(timeout_s):
        async for event in stream:
            seen.append(event)
            if isinstance(event, kind):
                break
    await stream.aclose()
    return seen


async def watch_until_traced(session: GrpcGuestSession, words: bytes) -> list[GuestEvent]:
    """The events up to the one with which the trace holds those words: the sample has come so far."""
    seen: list[GuestEvent] = []
    stream = session.watch()
    async with asyncio.timeout(60):
        async for event in stream:
            seen.append(event)
            if words in evidence(seen, "syscalls"):
                break
    await stream.aclose()
    return seen


async def finish(session: GrpcGuestSession, folder: Path) -> tuple[Flushed, list[GuestEvent], Collected]:
    """The observation is over; the whole record and the files."""
    flushed = await session.flush()
    events = await watch_until(session, RecordSealed)
    into = folder / "collected"
    into.mkdir()
    return flushed, events, await session.collect(into)


def evidence(events: Sequence[GuestEvent], source: str) -> bytes:
    """The bytes of one source."""
    return b"".join(one.content for one in events if isinstance(one, EvidenceFrame) and one.source == source)
