"""Real drivers die or stand still while a real agent runs a sample: another adopts the lease, and the run goes on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.plugins import (
    LeaseBeat,
    PluginResultProduced,
    PluginStageCompleted,
    PluginStageFailed,
    SampleStarted,
)
from services.chassis.crash_points import VARIABLE, Point
from services.plugins.adapters.guest_agent import GrpcGuestSession
from services.plugins.ports_guest import GuestRefused
from services.plugins.settings import PluginsSettings
from tests.integration.guest_harness import LEASE_ID, RunningAgent, lease, running_agent
from tests.integration.plugins_bench import Bench, connected, guest_assignment, open_folder, process, settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root in its guest, and so it must be here"),
]
ADOPTION_MAX_S = 60.0
LAUNCH_CALL = 7  # hello, twice; the clock, the sample, the plugin, its arming, and the launch
SAMPLE = b"#!/bin/sh\necho run >> runs\necho begun\nwhile [ ! -e end ]; do sleep 0.2; done\necho ended\n"


@dataclass
class Laboratory:
    """A lease whose sample runs under a first driver, and a second driver beside it."""

    bench: Bench
    agent: RunningAgent
    first: asyncio.subprocess.Process
    first_log: Path

    def end_sample(self) -> None:
        """The sample ends by itself."""
        (self.agent.sample_dir / "end").touch()

    async def adopted(self, term: int) -> None:
        """A driver of that term has said that it lives. Raises TimeoutError."""
        async with asyncio.timeout(ADOPTION_MAX_S), self.bench.news:
            await self.bench.news.wait_for(lambda: any(b.lease.term == term for b in self.bench.said(LeaseBeat)))


@asynccontextmanager
async def laboratory(amqp_url: str, database_url: str) -> AsyncIterator[Laboratory]:
    """Both drivers are processes of the plugins service, on one database and one object store."""
    with open_folder() as folder, running_agent(folder) as agent:
        first, second = (own(amqp_url, database_url, folder, name) for name in ("first", "second"))
        async with process(first) as one, connected(first) as bench:
            endpoint = agent.endpoint(await agent.enrol())
            guest = guest_assignment(endpoint=endpoint)
            await bench.order(SAMPLE, "syscalls", stage="guest", guest=guest, request={"timeout_s": 120})
            await bench.hear(SampleStarted)
            async with process(second):
                yield Laboratory(bench, agent, one, folder / "first" / "plugins.log")


def own(amqp_url: str, database_url: str, folder: Path, name: str) -> PluginsSettings:
    """Settings of one of two drivers."""
    (folder / name).mkdir()
    return settings(
        amqp_url,
        database_url,
        folder,
        scratch_dir=folder / name / "scratch",
        guest_client_cert_file=folder / "client/client.pem",
        guest_client_key_file=folder / "client/client.key",
    )


async def until_logged(log: Path, *events: str) -> None:
    """The process said one of the events. Raises TimeoutError."""
    async with asyncio.timeout(ADOPTION_MAX_S):
        while not any(event in content(log) for event in events):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.1)


async def until_refused(ghost: GrpcGuestSession) -> None:
    """The agent has heard of the later driver: the earlier one's harmless call is refused. Raises TimeoutError."""
    async with asyncio.timeout(ADOPTION_MAX_S):
        while True:
            try:
                await ghost.arm()
            except GuestRefused:
                return
            await asyncio.sleep(0.1)


async def until_written(file: Path) -> None:
    """The sample wrote it. Raises TimeoutError."""
    async with asyncio.timeout(ADOPTION_MAX_S):
        while not content(file):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)


def content(file: Path) -> str:
    """What the file holds, nothing if there is none."""
    return file.read_text(encoding="utf-8") if file.exists() else ""


async def check_outcome(lab: Laboratory) -> None:
    """One run of one sample, completed once, with evidence from its beginning to its end."""
    bench = lab.bench
    [completed] = await bench.hear(PluginStageCompleted)
    assert (completed.attempt, completed.ended_by, completed.errors) == (1, "sample_exit", ())
    results = {(fact.plugin, fact.name): fact for fact in bench.said(PluginResultProduced)}
    assert await bench.read(results["agent", "stdout"].blob) == b"begun\nended\n"
    assert b"execve" in await bench.read(results["syscalls", "syscalls"].blob)
    written = {(fact.path or "").rpartition("/")[2]: fact for fact in results.values() if fact.path}
    assert await bench.read(written["runs"].blob) == b"run\n"
    assert not any(fact.is_truncated for fact in results.values())
    assert len(bench.said(SampleStarted)) == len(bench.said(PluginStageCompleted)) == 1
    assert bench.said(PluginStageFailed) == []
    assert max(beat.lease.term for beat in bench.said(LeaseBeat)) == 2  # the first may have had no time for a beat


@pytest.mark.promise("P2", "P3", "P15")
async def test_the_lease_of_a_killed_driver_is_adopted_and_its_sample_runs_on(amqp_url: str, database_url: str) -> None:
    """The second driver goes on with the running sample; the agent refuses the first one's term from then on."""
    async with laboratory(amqp_url, database_url) as lab:
        lab.first.kill()
        await lab.adopted(2)
        endpoint = lab.agent.endpoint(f"{LEASE_ID.replace('_', '-')}.linux-1.malbox")
        ghost = await lab.agent.connector.connect(endpoint, lease(term=1), timeout_s=10)
        await until_refused(ghost)
        with pytest.raises(GuestRefused, match="a later driver took this lease over: term 2, not 1"):
            await ghost.flush()
        await ghost.close()
        lab.end_sample()
        await check_outcome(lab)


@pytest.mark.promise("P3", "P15")
async def test_a_driver_that_died_before_it_could_record_the_launch_is_followed_by_one_that_finds_it(
    amqp_url: str, database_url: str
) -> None:
    """Every step is asked for again and answered as before: the sample runs once, and its whole life is evidence."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        agent = stack.enter_context(running_agent(folder))
        first, second = (own(amqp_url, database_url, folder, name) for name in ("first", "second"))
        dying = await stack.enter_async_context(process(first, **{VARIABLE: f"{Point.AGENT_AFTER}:{LAUNCH_CALL}"}))
        bench = await stack.enter_async_context(connected(first))
        guest = guest_assignment(endpoint=agent.endpoint(await agent.enrol()))
        await bench.order(SAMPLE, "syscalls", stage="guest", guest=guest, request={"timeout_s": 120})
        assert await asyncio.wait_for(dying.wait(), ADOPTION_MAX_S) == -signal.SIGKILL
        await until_written(agent.sample_dir / "runs")
        assert bench.said(SampleStarted) == []
        await stack.enter_async_context(process(second))
        lab = Laboratory(bench, agent, dying, folder / "first" / "plugins.log")
        await lab.adopted(2)
        lab.end_sample()
        await check_outcome(lab)


@pytest.mark.promise("P2", "P29", "G4")
async def test_a_driver_that_stood_still_is_replaced_and_changes_nothing_when_it_goes_on(
    amqp_url: str, database_url: str
) -> None:
    """It is stopped until its lease is adopted, then goes on: it ends what it did, and only the second one's counts."""
    async with laboratory(amqp_url, database_url) as lab:
        os.kill(lab.first.pid, signal.SIGSTOP)
        await lab.adopted(2)
        os.kill(lab.first.pid, signal.SIGCONT)
        await until_logged(lab.first_log, "work_claim_was_lost", "work_has_a_newer_claimant")
        lab.end_sample()
        await check_outcome(lab)
        assert lab.first.returncode is None, "the worker itself lives on"
