"""A real agent, a real strace: who may drive a lease, and what a driver that comes later finds."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guest import limits
from services.plugins.adapters.guest_agent import GrpcGuestSession, guest_session
from services.plugins.ports_guest import (
    EvidenceFrame,
    GuestEvent,
    GuestRefused,
    GuestUnreachable,
    Heartbeat,
    TreeEmpty,
)
from tests.integration.guest_agent.course import evidence, start, watch_until
from tests.integration.guest_harness import (
    LEASE_ID,
    MACHINE_ID,
    OTHER_LEASE_ID,
    RunningAgent,
    lease,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root in its guest, and so it must be here"),
]
SERVED_MAX_S = 60.0


async def test_a_watcher_that_comes_back_misses_nothing(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """Another driver with a later term takes over, goes on from the last position, and fences the earlier one."""
    await start(session, folder, "echo one; sleep 2; echo two\n")
    before = await watch_until(session, EvidenceFrame)
    position = max(getattr(one, "position", 0) for one in before)
    hello_identity = f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"
    later = lease(term=1)
    async with guest_session(agent.connector, agent.endpoint(hello_identity), later, timeout_s=30) as successor:
        after: list[GuestEvent] = []
        async for event in successor.watch(after_position=position):
            after.append(event)
            if isinstance(event, TreeEmpty):
                break
        with pytest.raises(GuestRefused, match="later driver"):
            await session.flush()
        await successor.flush()
        seen = max(getattr(one, "position", 0) for one in after)
        after += [event async for event in successor.watch(after_position=seen)]  # what was printed may come last
    record = [one for one in [*before, *after] if not isinstance(one, Heartbeat)]
    assert [getattr(one, "position", 0) for one in record] == list(range(1, len(record) + 1))
    assert evidence(record, "stdout") == b"one\ntwo\n"


async def rest(stream: AsyncIterator[GuestEvent]) -> list[GuestEvent]:
    """Everything up to the end of the stream."""
    return [event async for event in stream]


@pytest.mark.promise("P2", "P28")
async def test_streams_of_a_replaced_driver_end(session: GrpcGuestSession, agent: RunningAgent, folder: Path) -> None:
    """A watch that goes on, and files that are being handed out, are cut at the first call of a later driver."""
    await start(session, folder, "exec sleep 300\n")
    stream = session.watch()
    await anext(stream)
    identity = f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"
    async with guest_session(agent.connector, agent.endpoint(identity), lease(term=1), timeout_s=30) as later:
        await later.arm()
        with pytest.raises(GuestRefused, match="a later driver took this lease over"):
            await asyncio.wait_for(rest(stream), 10)
        collected = await session.collect(folder)
        assert isinstance(collected.fault, GuestRefused)
        assert collected.files == ()
        assert (await later.flush()).killed == 1
        assert (await later.collect(folder)).fault is None


@pytest.mark.promise("P2", "P3")
async def test_a_driver_that_does_not_know_of_the_launch_may_repeat_every_step(
    session: GrpcGuestSession, folder: Path
) -> None:
    """The first outcome of each comes again; another sample or another configuration is refused while this one runs."""
    launched = await start(session, folder, "exec sleep 300\n")
    assert await start(session, folder, "exec sleep 300\n") == launched
    with pytest.raises(GuestRefused, match="the sample runs already, and is another file"):
        await start(session, folder, "sleep 301\n")
    with pytest.raises(GuestRefused, match="another configuration"):
        await session.init_plugin("syscalls", {"string_bytes": 128})
    assert (await session.flush()).killed == 1


async def test_heartbeats_come_while_nothing_happens(session: GrpcGuestSession, folder: Path) -> None:
    """A sleeping sample is told from a lost guest by a beat a second."""
    await start(session, folder, "exec sleep 300\n")
    begun, beats = time.monotonic(), 0
    async with asyncio.timeout(60):
        async for event in session.watch():
            beats += isinstance(event, Heartbeat)
            if beats == 3:
                break
    assert time.monotonic() - begun >= 2 * limits.HEARTBEAT_S
    assert (await session.flush()).killed == 1


@pytest.mark.promise("P2", "P28", "G4")
@pytest.mark.parametrize(
    ("lease_id", "epoch"), [(OTHER_LEASE_ID, 7), (LEASE_ID, 6), (LEASE_ID, 8)], ids=["lease", "older", "newer"]
)
async def test_a_call_for_another_lease_or_epoch_is_refused(
    session: GrpcGuestSession, agent: RunningAgent, lease_id: str, epoch: int
) -> None:
    """A stale or foreign holder can neither arm, nor launch, nor flush; the holder can."""
    identity = f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"
    connected = guest_session(
        agent.connector, agent.endpoint(identity), lease(lease_id=lease_id, epoch=epoch), timeout_s=30
    )
    with pytest.raises(GuestRefused):
        async with connected as stranger:
            await stranger.arm()
    await session.arm()


async def test_an_agent_that_was_shut_down_serves_no_more(session: GrpcGuestSession) -> None:
    """Shutdown is the end of the session."""
    await session.shutdown_plugin("syscalls")
    await session.shutdown()
    with pytest.raises(GuestUnreachable):
        await asyncio.wait_for(asked_for_ever(session), SERVED_MAX_S)


async def asked_for_ever(session: GrpcGuestSession) -> None:
    """Who it is: it answers the call that ends it before it ends."""
    while True:
        await session.hello(timeout_s=1.0)
