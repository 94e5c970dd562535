"""The guest stage on the real service, over a guest that follows a script, and once over the real agent."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contracts.plugins import (
    GuestConnected,
    GuestLost,
    ObservationEnded,
    PluginResultProduced,
    PluginStageCompleted,
    PluginStageFailed,
    SampleExited,
    SampleStarted,
)
from services.plugins.ports_guest import (
    Collected,
    CollectedFile,
    EvidenceFrame,
    Flushed,
    ProcessExited,
    ProcessStarted,
    SourceSummary,
    TreeEmpty,
)
from tests.integration.plugins_bench import (
    Bench,
    ScriptedGuest,
    connected,
    guest_assignment,
    open_folder,
    service,
    settings,
)

pytestmark = pytest.mark.integration
SCRIPT = b"#!/bin/sh\necho hello\n"
Open = Callable[[ScriptedGuest], AbstractAsyncContextManager[Bench]]


@pytest.fixture
async def opened(amqp_url: str, database_url: str) -> AsyncIterator[Open]:
    """Call it with a guest for a running service that reaches it."""
    with open_folder() as folder:
        own = settings(amqp_url, database_url, folder)

        @asynccontextmanager
        async def open_with(guest: ScriptedGuest) -> AsyncIterator[Bench]:
            async with service(own, guest), connected(own) as bench:
                yield bench

        yield open_with


async def order(bench: Bench, **request: Any) -> None:
    """A guest stage with the tracer is ordered."""
    hold_s = request.pop("hold_s", 300.0)
    await bench.order(
        SCRIPT, "syscalls", name="a b.sh", stage="guest", guest=guest_assignment(hold_s=hold_s), request=request
    )


async def short_life(guest: ScriptedGuest) -> None:
    """The sample writes some evidence and ends."""
    guest.say(ProcessStarted(1, 100, is_first=True))
    guest.say(EvidenceFrame(2, "syscalls", 1, b"execve(...) = 0\n", is_truncated=False))
    guest.say(EvidenceFrame(3, "stdout", 1, b"hello\n", is_truncated=False))
    guest.say(ProcessExited(4, 100, is_first=True, exit_code=0, signal=None))
    guest.say(TreeEmpty(5))


async def long_life(guest: ScriptedGuest) -> None:
    """The sample starts and stays."""
    guest.say(ProcessStarted(1, 100, is_first=True))
    guest.say(EvidenceFrame(2, "syscalls", 1, b"nanosleep(...)\n", is_truncated=False))
    await asyncio.sleep(600)


@pytest.mark.promise("D3", "C5")
async def test_a_sample_that_ends_is_observed_from_hello_to_shutdown(opened: Open, tmp_path: Path) -> None:
    """Every step in its order; evidence, output and dropped files are results; the rule is recorded."""
    dropped = tmp_path / "dropped"
    dropped.write_bytes(b"dropped")
    file = CollectedFile(dropped, "/tmp/evil\n", hashlib.sha256(b"dropped").hexdigest(), 7, False, False)  # noqa: FBT003
    guest = ScriptedGuest(short_life, collected=Collected((file,), 2))
    async with opened(guest) as bench:
        await order(bench, arguments=["-x", "y z"])
        [completed] = await bench.hear(PluginStageCompleted)
        results = {(fact.plugin, fact.name): fact for fact in bench.said(PluginResultProduced)}
        assert await bench.read(results["syscalls", "syscalls"].blob) == b"execve(...) = 0\n"
        assert await bench.read(results["agent", "stdout"].blob) == b"hello\n"
        assert results["agent", "dropped/000"].path == "/tmp/evil\n"
        assert await bench.read(results["agent", "dropped/000"].blob) == b"dropped"
        assert [event["event"] for event in (await bench.json_of("agent", "processes"))["processes"]] == [
            "started",
            "exited",
        ]
    assert guest.calls == [
        "connect",
        "hello",
        "set_clock",
        "put",
        "init syscalls ['string_bytes', 'trace_max_mib']",
        "arm",
        "launch",
        "flush",
        "collect",
        "shutdown syscalls",
        "shutdown",
        "close",
    ]
    assert guest.argv == ("/bin/sh", "/work/a_b.sh", "-x", "y z")
    assert completed.ended_by == "sample_exit"
    assert set(completed.result_ids) == {fact.result_id for fact in results.values()}
    assert [error.reason for error in completed.errors] == ["2 more files that the sample wrote were not collected"]
    kinds = [kind for kind in (GuestConnected, SampleStarted, SampleExited, ObservationEnded) if bench.said(kind)]
    assert len(kinds) == 4


@pytest.mark.promise("A4", "C5")
async def test_enforce_timeout_watches_to_the_end_of_the_window(opened: Open) -> None:
    """The same sample, gone at once: without the option the watch ends after the settle time, with it after 4 s."""
    loop = asyncio.get_running_loop()
    async with opened(ScriptedGuest(short_life)) as bench:
        await order(bench, enforce_timeout=True, timeout_s=4)
        [started] = await bench.hear(SampleStarted)
        started_at = loop.time()
        assert started.pid == 100
        [ended] = await bench.hear(ObservationEnded)
        assert ended.ended_by == "window"
        assert loop.time() - started_at >= 3.5


@pytest.mark.promise("C5")
@pytest.mark.parametrize(("request_", "rule"), [({"timeout_s": 1}, "window"), ({"hold_s": 32.0}, "timeout")])
async def test_time_ends_a_watch(request_: dict[str, Any], rule: str, opened: Open) -> None:
    """The user's window, or the lease's end less the time for collecting, whichever is first."""
    async with opened(ScriptedGuest(long_life)) as bench:
        await order(bench, **request_)
        [completed] = await bench.hear(PluginStageCompleted)
        assert completed.ended_by == rule
        assert len(completed.result_ids) == 2


@pytest.mark.promise("D3")
async def test_a_cancelled_watch_seals_what_came_and_takes_leave(opened: Open) -> None:
    """Flush, collect and shutdown happen also on cancel."""
    guest = ScriptedGuest(long_life)
    async with opened(guest) as bench:
        await order(bench)
        await bench.hear(SampleStarted)
        await bench.cancel("guest")
        [completed] = await asyncio.wait_for(bench.hear(PluginStageCompleted), 10)
        assert completed.ended_by == "cancelled"
        assert len(completed.result_ids) == 2
    assert guest.calls[-5:] == ["flush", "collect", "shutdown syscalls", "shutdown", "close"]


@pytest.mark.promise("G2")
async def test_a_guest_that_falls_silent_is_lost_never_completed(opened: Open) -> None:
    """Ten seconds without a sign of life; what came before is sealed, another machine may do."""

    async def dies(guest: ScriptedGuest) -> None:
        guest.say(EvidenceFrame(1, "syscalls", 1, b"last words", is_truncated=False))
        await asyncio.sleep(0.5)
        guest.is_alive = False

    async with opened(ScriptedGuest(dies)) as bench:
        await order(bench)
        [failed] = await bench.hear(PluginStageFailed)
        assert (failed.is_retryable, failed.ended_by) == (True, "guest_lost")
        assert len(failed.result_ids) == 2
        assert len(bench.said(GuestLost)) == 1
        assert bench.said(PluginStageCompleted) == []


@pytest.mark.promise("G2")
async def test_a_guest_that_cannot_be_reached_is_a_retryable_failure(opened: Open) -> None:
    """Nothing ran; the reason says so."""
    guest = ScriptedGuest(long_life, is_alive=False)
    async with opened(guest) as bench:
        await order(bench)
        [failed] = await bench.hear(PluginStageFailed)
        assert (failed.is_retryable, failed.result_ids) == (True, ())
        assert "the guest was lost" in failed.reason


async def test_a_program_that_the_guest_refuses_to_run_is_reported(opened: Open) -> None:
    """A corrupted executable: the watch ends at once, and the report says what the guest's kernel said."""

    async def nothing(_guest: ScriptedGuest) -> None:
        return

    async with opened(ScriptedGuest(nothing, exec_error="Exec format error")) as bench:
        await order(bench)
        [completed] = await bench.hear(PluginStageCompleted)
        assert completed.ended_by == "sample_exit"
        assert "the guest could not run the sample: Exec format error" in [error.reason for error in completed.errors]


@pytest.mark.promise("P30")
async def test_evidence_that_is_less_than_the_guest_recorded_is_marked(opened: Open) -> None:
    """The agent's own count is compared with what came."""
    flushed = Flushed((SourceSummary("syscalls", 9, 999, "", is_truncated=False),), 5, 0)
    async with opened(ScriptedGuest(short_life, flushed=flushed)) as bench:
        await order(bench)
        await bench.hear(PluginStageCompleted)
        marks = {fact.name: fact.is_truncated for fact in bench.said(PluginResultProduced)}
        assert marks == {"syscalls": True, "stdout": False, "processes": False}


@pytest.mark.promise("P3")
async def test_a_restarted_service_takes_the_watch_over(opened: Open) -> None:
    """Launching is not repeated, nothing of the evidence is lost or doubled, the window counts from the launch."""
    guest = ScriptedGuest(long_life)
    async with opened(guest) as bench:
        await order(bench, timeout_s=6)
        await bench.hear(SampleStarted)
    async with opened(guest) as later:
        later.task_id = bench.task_id
        [completed] = await later.hear(PluginStageCompleted)
        assert completed.ended_by == "window"
        [trace] = [fact for fact in later.said(PluginResultProduced) if fact.plugin == "syscalls"]
        assert await later.read(trace.blob) == b"nanosleep(...)\n"
    assert guest.calls.count("launch") == guest.calls.count("put") == 1


@pytest.mark.promise("P3")
async def test_a_service_that_stops_while_it_collects_collects_again(opened: Open) -> None:
    """The rule that ended the watch is the first one's; nothing is launched or said twice."""
    is_first = asyncio.Event()

    class Slow(ScriptedGuest):
        """A guest whose first collection never ends."""

        async def collect(self, into: Path) -> Collected:
            if not is_first.is_set():
                is_first.set()
                await asyncio.sleep(600)
            return await super().collect(into)

    guest = Slow(short_life)
    async with opened(guest) as bench:
        await order(bench)
        await asyncio.wait_for(is_first.wait(), 20)
    async with opened(guest) as later:
        [completed] = await later.hear(PluginStageCompleted)
        assert completed.ended_by == "sample_exit"
        assert len(completed.result_ids) == 3
        assert later.said(SampleStarted) == []
    assert guest.calls.count("launch") == 1
