"""The guest stage on the real service, over a guest that follows a script, and once over the real agent."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from contracts.envelope import Message
from contracts.plugins import (
    GuestConnected,
    GuestLost,
    LeaseBeat,
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


@pytest.mark.promise("P2")
async def test_the_driver_of_a_lease_says_that_it_lives(opened: Open) -> None:
    """Beats name the lease and its driver and count up; the end of the watch names both too."""
    async with opened(ScriptedGuest(long_life)) as bench:
        await order(bench, timeout_s=11)
        beats = (await bench.hear(LeaseBeat, 2))[:2]
        [ended] = await bench.hear(ObservationEnded)
    assert [(beat.beat, beat.task_id) for beat in beats] == [(1, bench.task_id), (2, bench.task_id)]
    assert {beat.lease for beat in beats} == {ended.lease}
    assert beats[0].lease.term == 1


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


@pytest.mark.promise("P12", "P15")
async def test_a_stage_that_is_ordered_again_after_its_end_says_again_what_it_said(opened: Open) -> None:
    """Under the same ids, so that only who missed it learns anything; nothing runs twice."""
    guest = ScriptedGuest(short_life)
    async with opened(guest) as bench:
        command = await bench.order(SCRIPT, "syscalls", stage="guest", guest=guest_assignment())
        first = await _told(bench)
        bench.ids.clear()
        bench.heard.clear()
        await bench.tell(command.model_copy(update={"guest": None}))
        assert await _told(bench) == first
    assert guest.calls.count("launch") == 1


async def _told(bench: Bench) -> dict[str, Message]:
    """The end of a stage and every result that it names, by message id: the bus promises no order."""
    [completed] = await bench.hear(PluginStageCompleted)
    await bench.hear(PluginResultProduced, len(completed.result_ids))
    awaited = (PluginResultProduced, PluginStageCompleted)
    return {number: said for number, said in zip(bench.ids, bench.heard, strict=True) if isinstance(said, awaited)}


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

        async def collect(self, into: Path, *, timeout_s: float) -> Collected:
            if not is_first.is_set():
                is_first.set()
                await asyncio.sleep(600)
            return await super().collect(into, timeout_s=timeout_s)

    guest = Slow(short_life)
    async with opened(guest) as bench:
        await order(bench)
        await bench.hear(SampleStarted)
        await asyncio.wait_for(is_first.wait(), 60)
    async with opened(guest) as later:
        [completed] = await later.hear(PluginStageCompleted)
        assert completed.ended_by == "sample_exit"
        assert len(completed.result_ids) == 3
    assert set(later.ids_of(SampleStarted)) <= set(bench.ids_of(SampleStarted)), "nothing is said as another message"
    assert guest.calls.count("launch") == 1


@pytest.mark.promise("P3")
async def test_a_driver_that_died_while_taking_leave_is_followed_by_one_that_needs_no_guest(opened: Open) -> None:
    """All evidence was home; the stage completes although the guest is gone, with what was missing from it."""
    leaving = asyncio.Event()

    class Leaving(ScriptedGuest):
        """A guest that ends with its agent, whose last reply never comes."""

        async def shutdown(self) -> None:
            self.is_alive = False
            leaving.set()
            await asyncio.sleep(600)

    guest = Leaving(short_life, collected=Collected((), 2))
    async with opened(guest) as bench:
        await order(bench)
        await asyncio.wait_for(leaving.wait(), 60)
        assert bench.said(PluginStageCompleted) == []
    async with opened(guest) as later:
        [completed] = await later.hear(PluginStageCompleted)
    assert (completed.ended_by, len(completed.result_ids)) == ("sample_exit", 3)
    assert [error.reason for error in completed.errors] == ["2 more files that the sample wrote were not collected"]
    assert later.said(PluginStageFailed) == []


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


@pytest.mark.promise("P2", "P29")
async def test_what_a_replaced_driver_brings_is_filed_as_late_and_is_no_result(opened: Open, database_url: str) -> None:
    """Another claimed the stage while this one collected: its evidence is known of, under its term, and never said."""
    collecting, go_on = asyncio.Event(), asyncio.Event()

    class Slow(ScriptedGuest):
        """A guest that hands its files out when told to."""

        async def collect(self, into: Path, *, timeout_s: float) -> Collected:
            collecting.set()
            await go_on.wait()
            return await super().collect(into, timeout_s=timeout_s)

    async with opened(Slow(short_life)) as bench, connected_to(database_url) as database:
        await order(bench)
        await asyncio.wait_for(collecting.wait(), 60)
        taken = await database.execute("UPDATE work SET attempts = attempts + 1 WHERE kind = 'run-stage'")
        assert taken == "UPDATE 1"
        go_on.set()
        late: list[asyncpg.Record] = []
        async with asyncio.timeout(60):
            while not late:
                late = await database.fetch("SELECT task_id, lease_id, epoch, term, name FROM late_results")
        filed = [(bench.task_id, "lea_" + "ab" * 16, 7, 1, name) for name in ("processes", "stdout", "syscalls")]
        assert sorted(tuple(row) for row in late) == filed
        assert await database.fetch("SELECT FROM produced") == []
        assert bench.said(PluginResultProduced) == []


@pytest.mark.promise("P2", "P3")
async def test_a_lease_is_adopted_three_times_and_then_given_back(opened: Open, database_url: str) -> None:
    """The fourth driver still goes on with the sample; after it the stage ends as one that another machine may do."""
    guest = ScriptedGuest(long_life)
    async with opened(guest) as bench:
        await order(bench)
        await bench.hear(SampleStarted)
    async with connected_to(database_url) as database:
        assert await database.execute("UPDATE work SET attempts = 3 WHERE kind = 'run-stage'") == "UPDATE 1"
    async with opened(guest) as fourth:
        beats = await fourth.hear(LeaseBeat)
        assert beats[-1].lease.term == 4
        assert fourth.said(PluginStageFailed) == []
    async with opened(guest) as fifth:
        [failed] = await fifth.hear(PluginStageFailed)
    assert (failed.is_retryable, failed.reason) == (True, "the stage could not be run: interrupted too often")
    assert [beat for beat in fifth.said(LeaseBeat) if beat.lease.term > 4] == []
    assert guest.calls.count("launch") == 1


@asynccontextmanager
async def connected_to(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """The service's own tables."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "plugins"}, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()
