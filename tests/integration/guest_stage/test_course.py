"""The guest stage on the real service, over a guest that follows a script: its steps, its ends and its faults."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
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
    GuestEvent,
    GuestLied,
    GuestUnreachable,
    KeepAlive,
    ProcessExited,
    ProcessStarted,
    SourceSummary,
    TreeEmpty,
)
from tests.integration.guest_stage.lives import Open, long_life, order, short_life
from tests.integration.plugins_bench import (
    ScriptedGuest,
)

pytestmark = pytest.mark.integration


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
        assert results["syscalls", "syscalls"].title == "System call trace"
        assert results["agent", "stdout"].title == ""
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
        "init syscalls ['keep_alive_s', 'string_bytes', 'trace_max_mib']",
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
    guest = ScriptedGuest(short_life)
    async with opened(guest) as bench:
        await order(bench, enforce_timeout=True, timeout_s=4)
        [started] = await bench.hear(SampleStarted)
        assert started.pid == 100
        [ended] = await bench.hear(ObservationEnded)
        assert ended.ended_by == "window"
        await bench.hear(PluginStageCompleted)
    assert guest.called_at["flush"] - guest.called_at["launch"] >= 3.9


@pytest.mark.promise("C5")
@pytest.mark.parametrize(("request_", "rule"), [({"timeout_s": 1}, "window"), ({"hold_s": 242.0}, "timeout")])
async def test_time_ends_a_watch(request_: dict[str, Any], rule: str, opened: Open) -> None:
    """The user's window, or the lease's end less the time for collecting, whichever is first."""
    async with opened(ScriptedGuest(long_life)) as bench:
        await order(bench, **request_)
        [completed] = await bench.hear(PluginStageCompleted)
        assert completed.ended_by == rule
        assert len(completed.result_ids) == 2


@pytest.mark.promise("C5", "A4")
@pytest.mark.parametrize(
    ("holder", "window_s", "held_s", "rule"),
    [
        ("syscalls", 2, 2.5, "plugin"),
        ("syscalls", 60, 0.5, "sample_exit"),
        ("impostor", 60, 30.0, "sample_exit"),
    ],
)
async def test_a_keep_alive_holds_the_watch_open_beyond_the_window(
    opened: Open, holder: str, window_s: int, held_s: float, rule: str
) -> None:
    """The sample is gone at once. Only a plugin whose manifest allows it is heeded."""

    async def lingers(guest: ScriptedGuest) -> None:
        guest.say(KeepAlive(1, holder, is_held=True))
        guest.say(ProcessStarted(2, 100, is_first=True))
        guest.say(ProcessExited(3, 100, is_first=True, exit_code=0, signal=None))
        guest.say(TreeEmpty(4))
        await asyncio.sleep(held_s)
        guest.say(EvidenceFrame(5, "syscalls", 1, b"what the service did", is_truncated=False))
        guest.say(KeepAlive(6, holder, is_held=False))

    async with opened(ScriptedGuest(lingers)) as bench:
        await order(bench, timeout_s=window_s)
        [completed] = await bench.hear(PluginStageCompleted)
        assert completed.ended_by == rule
        came = {fact.plugin for fact in bench.said(PluginResultProduced)}
        assert ("syscalls" in came) is (holder == "syscalls")


@pytest.mark.promise("D3")
async def test_a_cancelled_watch_seals_what_came_and_takes_leave(opened: Open) -> None:
    """Flush, collect and shutdown happen also on cancel."""
    guest = ScriptedGuest(long_life)
    async with opened(guest) as bench:
        await order(bench)
        await bench.hear(SampleStarted)
        await bench.cancel("guest")
        [completed] = await bench.hear(PluginStageCompleted)
        assert completed.ended_by == "cancelled"
        assert len(completed.result_ids) == 2
    assert guest.calls[-5:] == ["flush", "collect", "shutdown syscalls", "shutdown", "close"]


@pytest.mark.promise("G2")
async def test_a_guest_that_falls_silent_is_lost_never_completed(opened: Open) -> None:
    """Ten seconds without a sign of life; what came before is sealed, another machine may do."""

    async def dies(guest: ScriptedGuest) -> None:
        guest.say(EvidenceFrame(1, "syscalls", 1, b"last words", is_truncated=False))
        await guest.is_watched.wait()
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
    """The agent's own count is compared with what came; whoever reads the evidence later is told."""
    flushed = Flushed((SourceSummary("syscalls", 9, 999, "", is_truncated=False),), 5, 0)
    async with opened(ScriptedGuest(short_life, flushed=flushed)) as bench:
        await order(bench)
        await bench.hear(PluginStageCompleted)
        marks = {fact.name: fact.is_truncated for fact in bench.said(PluginResultProduced)}
        assert marks == {"syscalls": True, "stdout": False, "processes": False}
        await bench.order(b"#!/bin/sh\n", "behaviour", stage="post", name="a.sh")
        await bench.hear(PluginStageCompleted, 2)
        assert (await bench.json_of("behaviour", "signatures"))["is_truncated"] is True


@pytest.mark.promise("P30", "P31")
@pytest.mark.parametrize("fault", [GuestUnreachable("the lease is over"), GuestLied("a file's bytes are not those")])
async def test_what_was_collected_before_a_fault_is_kept(fault: Exception, opened: Open, tmp_path: Path) -> None:
    """A lease that ends while files are collected costs the rest of them; a lie ends the stage, and costs no more."""
    dropped = tmp_path / "dropped"
    dropped.write_bytes(b"whole")
    file = CollectedFile(dropped, "/tmp/a", hashlib.sha256(b"whole").hexdigest(), 5, False, False)  # noqa: FBT003
    guest = ScriptedGuest(short_life, collected=Collected((file,), 0, fault=fault))  # type: ignore[arg-type]
    async with opened(guest) as bench:
        await order(bench)
        ended: PluginStageCompleted | PluginStageFailed
        if isinstance(fault, GuestLied):
            [ended] = await bench.hear(PluginStageFailed)
            assert (ended.reason, ended.is_retryable) == (str(fault), False)
        else:
            [ended] = await bench.hear(PluginStageCompleted)
            assert [error.reason for error in ended.errors] == [f"collecting files was cut short: {fault}"]
        results = {fact.name: fact for fact in bench.said(PluginResultProduced)}
        assert set(ended.result_ids) == {fact.result_id for fact in results.values()}
        assert set(results) == {"syscalls", "stdout", "processes", "dropped/000"}
        assert await bench.read(results["dropped/000"].blob) == b"whole"


@pytest.mark.promise("P30")
async def test_a_guest_that_lies_while_it_is_watched_ends_the_stage_and_what_came_is_kept(opened: Open) -> None:
    """The reason is recorded, trying again would not help, and the evidence says that it is not all."""

    class Lying(ScriptedGuest):
        """A guest whose third event is a lie."""

        async def watch(self, *, after_position: int = 0) -> AsyncGenerator[GuestEvent, None]:
            async for event in super().watch(after_position=after_position):
                yield event
                if isinstance(event, EvidenceFrame):
                    raise GuestLied("more than 8 sources")

    async with opened(Lying(long_life)) as bench:
        await order(bench)
        [failed] = await bench.hear(PluginStageFailed)
        assert (failed.reason, failed.is_retryable) == ("more than 8 sources", False)
        kept = {fact.name: fact for fact in bench.said(PluginResultProduced)}
        assert set(failed.result_ids) == {fact.result_id for fact in kept.values()}
        assert kept["syscalls"].is_truncated
        assert await bench.read(kept["syscalls"].blob) == b"nanosleep(...)\n"
