"""Lies in the record that the agent keeps of what the sample did: its events, and the way in which they come."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from contracts.guest import agent_pb2 as pb
from contracts.ids import derived
from tests.security.lying import (
    BAD_TEXT,
    COMPLETED,
    HONEST,
    LOST_LATE,
    STRANGE,
    U32,
    U64,
    UNBELIEVED,
    UNSEALED,
    Change,
    Ends,
    Lie,
    failed,
    raw_field,
    streams,
)
from tests.security.lying_guest import Abort, LyingGuest, Said


def record(events: Callable[[LyingGuest], list[Said]]) -> Change:
    """The record is this one; the rest is honest."""

    def change(guest: LyingGuest) -> None:
        guest.events = events(guest)

    return change


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


RECORD = (
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
