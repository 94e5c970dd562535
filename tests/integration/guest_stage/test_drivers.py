"""The guest stage on the real service: who drives it, what another takes over, and what is said again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from contracts.envelope import Message
from contracts.plugins import (
    LeaseBeat,
    ObservationEnded,
    PluginResultProduced,
    PluginStageCompleted,
    PluginStageFailed,
    SampleStarted,
)
from services.chassis.work import claims
from services.plugins.ports_guest import (
    Collected,
)
from tests.integration.guest_stage.lives import SCRIPT, Open, long_life, order, short_life
from tests.integration.plugins_bench import (
    Bench,
    ScriptedGuest,
    guest_assignment,
)

pytestmark = pytest.mark.integration


@pytest.mark.promise("P2")
async def test_the_driver_of_a_lease_says_that_it_lives(opened: Open) -> None:
    """Beats name the lease and its driver and count up; the end of the watch names both too."""
    async with opened(ScriptedGuest(long_life)) as bench:
        await order(bench, timeout_s=120)
        beats = (await bench.hear(LeaseBeat, 2))[:2]
        await bench.cancel("guest")
        [ended] = await bench.hear(ObservationEnded)
    assert [(beat.beat, beat.task_id) for beat in beats] == [(1, bench.task_id), (2, bench.task_id)]
    assert {beat.lease for beat in beats} == {ended.lease}
    assert beats[0].lease.term == 1


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


@pytest.mark.promise("P2", "P29")
async def test_what_a_replaced_driver_brings_is_filed_as_late_and_is_no_result(
    opened: Open, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another claimed the stage while this one collected: its evidence is known of, under its term, and never said.

    It learns of the other only when it records: its worker looks at no claim meanwhile, which would end it sooner.
    """
    for name in ("RENEW_S", "HELD_S"):
        monkeypatch.setattr(claims, name, 3600.0)
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
