"""Bundled guest plugins on the real service: over a guest that follows a script, and over the real agent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from contracts.plugins import (
    ObservationEnded,
    PluginFinished,
    PluginResultProduced,
    PluginStageCompleted,
    PluginStageFailed,
    PluginStarted,
    SampleStarted,
)
from malbox.sdk.manifest.events import SUBSCRIBABLE
from services.plugins.ports_guest import (
    GuestLied,
    GuestRefused,
    GuestUnreachable,
    PluginEnding,
    PluginPiece,
    ProcessExited,
    ProcessStarted,
    TreeEmpty,
)
from tests.integration.guest_harness import RunningAgent, running_agent
from tests.integration.plugins_bench import (
    Bench,
    ScriptedGuest,
    connected,
    guest_assignment,
    open_folder,
    service,
    settings,
)
from tests.unit.guest.bundled import make_plugin

pytestmark = pytest.mark.integration
SCRIPT = b"#!/bin/sh\necho hello\necho gone > gone.txt; sleep 1; rm gone.txt\n"
SLOW = "class Plugin(GuestPlugin):\n    def {call}(self, *_):\n        time.sleep(600)\n"
ALL_FACTS = f"[events]\nsubscribe = {json.dumps(sorted(SUBSCRIBABLE))}\n"
Open = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
async def opened(amqp_url: str, database_url: str) -> AsyncIterator[Open]:
    """Call it with a guest for a running service with the guest plugins `watcher` and `other`."""
    with open_folder() as folder:
        make_plugin(folder / "plugins", "watcher", more="[events]\nsubscribe = ['SampleStarted', 'ObservationEnded']\n")
        make_plugin(folder / "plugins", "other")
        own = settings(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])

        @asynccontextmanager
        async def open_with(guest: ScriptedGuest) -> AsyncIterator[Bench]:
            async with service(own, guest), connected(own) as bench:
                yield bench

        yield open_with


async def order(bench: Bench, *plugins: str, **request: Any) -> None:
    """A guest stage with those plugins is ordered."""
    await bench.order(SCRIPT, *plugins, stage="guest", name="a.sh", guest=guest_assignment(), request=request)


def said(position: int, sequence: int, value: object = "x", plugin: str = "watcher", name: str = "seen") -> PluginPiece:
    """A record of a plugin's."""
    return PluginPiece(position, plugin, sequence, name, "json", "application/json", json.dumps(value).encode())


async def short_life(guest: ScriptedGuest) -> None:
    """Two plugins say something, and the sample ends."""
    guest.say(ProcessStarted(1, 100, is_first=True))
    guest.say(said(2, 0, "one"))
    guest.say(said(3, 0, "other", plugin="other"))
    guest.say(said(4, 1, "two"))
    guest.say(ProcessExited(5, 100, is_first=True, exit_code=0, signal=None))
    guest.say(TreeEmpty(6))


@pytest.mark.promise("D3", "C1")
async def test_bundled_plugins_are_driven_from_start_to_end_and_their_records_are_results(opened: Open) -> None:
    """Started in order before the sample, ended after the record is here and before files are collected."""
    guest = ScriptedGuest(short_life)
    async with opened(guest) as bench:
        await order(bench, "syscalls", "watcher", "other")
        [completed] = await bench.hear(PluginStageCompleted)
        assert await bench.json_of("watcher", "seen") == ["one", "two"]
        assert await bench.json_of("other", "seen") == ["other"]
        assert (await bench.json_of("agent", "processes"))["plugins"]["watcher"]["gaps"] == 0
        assert bench.outcomes() == {"syscalls": "failed", "watcher": "completed", "other": "completed"}
    calls = [call for call in guest.calls if not call.startswith("init")]
    assert calls[:8] == ["connect", "hello", "set_clock", "put", "start watcher []", "start other []", "arm", "launch"]
    assert [*calls[8:9], *sorted(calls[9:11]), *calls[11:12]] == ["flush", "end other", "end watcher", "collect"]
    assert [error.plugin for error in completed.errors] == ["syscalls"]


@pytest.mark.promise("D4")
async def test_guest_plugins_are_told_what_they_subscribed_to_before_they_are_flushed(opened: Open) -> None:
    """Each fact once, in order, to the one who subscribed; the last one before the flush."""
    guest = ScriptedGuest(short_life)
    async with opened(guest) as bench:
        await order(bench, "watcher", "other")
        await bench.hear(PluginStageCompleted)
        facts = [*bench.said(SampleStarted), *bench.said(ObservationEnded)]
    assert [(plugin, fact) for plugin, _id, fact, _content in guest.told] == [
        ("watcher", "SampleStarted"),
        ("watcher", "ObservationEnded"),
    ]
    assert [content for *_, content in guest.told] == [fact.model_dump(mode="json") for fact in facts]


async def test_facts_that_a_plugin_is_too_slow_for_are_named(opened: Open) -> None:
    """It completes, and whoever reads its evidence knows what it did not know."""

    class Deaf(ScriptedGuest):
        """A guest whose plugins take nothing in."""

        async def tell(self, *_: Any) -> bool:
            """Not told."""
            return False

    async with opened(Deaf(short_life)) as bench:
        await order(bench, "watcher", "other")
        [completed] = await bench.hear(PluginStageCompleted)
    assert [(error.plugin, error.reason) for error in completed.errors] == [
        ("watcher", "2 facts that it subscribes to could not be told to it")
    ]


@pytest.mark.promise("P30")
async def test_gaps_and_lies_of_a_plugin_show_and_harm_no_other(opened: Open) -> None:
    """A gap, a repetition and pieces that never came are named; what is no result of the plugin fails it alone."""

    async def gappy(guest: ScriptedGuest) -> None:
        guest.say(ProcessStarted(1, 100, is_first=True))
        guest.say(said(2, 0, "one"))
        guest.say(said(3, 3, "four"))
        guest.say(said(4, 3, "again"))
        guest.say(said(5, 0, "lie", plugin="other", name="undeclared"))
        guest.say(said(6, 0, "whose?", plugin="nobody"))
        guest.say(ProcessExited(7, 100, is_first=True, exit_code=0, signal=None))
        guest.say(TreeEmpty(8))

    guest = ScriptedGuest(gappy, endings={"watcher": PluginEnding("completed", "", 5, b"a log", 1)})
    async with opened(guest) as bench:
        await order(bench, "watcher", "other")
        [completed] = await bench.hear(PluginStageCompleted)
        assert await bench.json_of("watcher", "seen") == ["one", "four"]
        [result] = [one for one in bench.said(PluginResultProduced) if one.plugin == "watcher"]
        assert result.is_truncated
        counted = (await bench.json_of("agent", "processes"))["plugins"]["watcher"]
        assert counted == {"pieces": 3, "gaps": 4, "repeats": 1}
        assert bench.outcomes() == {"watcher": "completed", "other": "failed"}
    words = {error.plugin: error.reason for error in completed.errors}
    assert words["watcher"] == "4 pieces of its evidence never came, 1 came again"
    assert words["other"] == "result undeclared is not declared in the manifest"
    assert words[None] == "1 pieces of evidence are of plugins that are not there"


@pytest.mark.promise("P30")
@pytest.mark.parametrize(
    ("ending", "outcome", "reason"),
    [
        (PluginEnding("timed_out", "arm took longer than 3 s", 2, b"", 1), "timed_out", "arm took longer than 3 s"),
        (PluginEnding("crashed", "signal 9", 2, b"", 1), "crashed", "signal 9"),
        (PluginEnding("great", "", 2, b"", 1), "failed", "the guest did not say how it ended"),
        (PluginEnding("skipped", "nothing to see", 2, b"", 1), "skipped", None),
    ],
)
async def test_how_a_plugin_ended_is_its_outcome(
    ending: PluginEnding, outcome: str, reason: str | None, opened: Open
) -> None:
    """As the guest says, when that is an outcome; what it emitted before is kept."""
    async with opened(ScriptedGuest(short_life, endings={"watcher": ending})) as bench:
        await order(bench, "watcher", "other")
        [completed] = await bench.hear(PluginStageCompleted)
        assert bench.outcomes() == {"watcher": outcome, "other": "completed"}
        assert await bench.json_of("watcher", "seen") == ["one", "two"]
    assert [error.reason for error in completed.errors] == ([reason] if reason else [])


@pytest.mark.promise("C5")
async def test_plugins_are_flushed_and_ended_when_the_task_is_cancelled(opened: Open) -> None:
    """The same steps as at any other end."""

    async def stays(guest: ScriptedGuest) -> None:
        guest.say(ProcessStarted(1, 100, is_first=True))
        guest.say(said(2, 0, "one"))

    guest = ScriptedGuest(stays)
    async with opened(guest) as bench:
        await order(bench, "watcher", timeout_s=60)
        await bench.hear(SampleStarted)
        await bench.cancel("guest")
        [completed] = await bench.hear(PluginStageCompleted)
        assert completed.ended_by == "cancelled"
        assert await bench.json_of("watcher", "seen") == ["one"]
    assert guest.calls.index("flush") < guest.calls.index("end watcher") < guest.calls.index("shutdown")


async def test_a_lost_guest_leaves_what_came_and_says_so(opened: Open) -> None:
    """The run has an outcome, and its evidence is marked as less than there was."""

    class Lost(ScriptedGuest):
        """A guest that is gone when it is flushed."""

        async def flush(self) -> Any:
            """Gone."""
            raise GuestUnreachable("gone")

    async with opened(Lost(short_life)) as bench:
        await order(bench, "watcher")
        await bench.hear(PluginStageFailed)
        [result] = [one for one in bench.said(PluginResultProduced) if one.plugin == "watcher"]
        assert (result.is_truncated, bench.outcomes()["watcher"]) == (True, "failed")


@pytest.mark.promise("D1")
@pytest.mark.parametrize(
    ("call", "fault", "reason"),
    [
        ("launch", GuestRefused("no such user"), "the guest was lost: no such user"),
        ("launch", GuestUnreachable("gone"), "the guest was lost: gone"),
        ("arm", GuestLied("armed twice"), "armed twice"),
        ("start other", GuestUnreachable("gone"), "the guest was lost: gone"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_a_plugin_that_began_ends_though_the_sample_is_never_launched(
    call: str, fault: Exception, reason: str, opened: Open
) -> None:
    """Whatever fails between its start and the sample's: one fact, with the reason, which is among the errors too."""

    class Refusing(ScriptedGuest):
        """A guest that fails in one call."""

        async def _call(self, name: str) -> None:
            await super()._call(name)
            if name.startswith(call):
                raise fault

    async with opened(Refusing(short_life)) as bench:
        await order(bench, "syscalls", "watcher", "other")
        [failed] = await bench.hear(PluginStageFailed)
        assert {one.plugin for one in bench.said(PluginStarted)} == {"syscalls", "watcher", "other"}
        ends = [(one.plugin, one.outcome, one.reason) for one in bench.said(PluginFinished)]
    words = f"the stage failed before the plugin ended: {reason}"
    assert sorted(ends) == [(name, "failed", words) for name in ("other", "syscalls", "watcher")]
    assert [(error.plugin, error.reason) for error in failed.errors] == [(name, words) for name, *_ in sorted(ends)]


@pytest.mark.promise("D1")
@pytest.mark.parametrize("beside", [(), ("other",)], ids=["alone", "beside another"])
async def test_a_plugin_that_could_not_be_started_keeps_its_own_reason_when_the_launch_fails(
    opened: Open, beside: tuple[str, ...]
) -> None:
    """What it came to was known before; one beside it ends with the stage. The stage names the reasons of both."""

    class Refusing(ScriptedGuest):
        """A guest that has no room for one plugin, and then none for the sample."""

        async def _call(self, name: str) -> None:
            await super()._call(name)
            if name.startswith(("start watcher", "launch")):
                raise GuestRefused(f"no room for {name.partition(' [')[0]}")

    async with opened(Refusing(short_life)) as bench:
        await order(bench, "watcher", *beside)
        [failed] = await bench.hear(PluginStageFailed)
        ends = {one.plugin: one.reason for one in bench.said(PluginFinished)}
    late = "the stage failed before the plugin ended: the guest was lost: no room for launch"
    assert ends == {"watcher": "no room for start watcher", **dict.fromkeys(beside, late)}
    assert {error.plugin: error.reason for error in failed.errors} == ends


@pytest.mark.promise("D1", "P3")
async def test_a_plugin_that_a_driver_before_began_ends_when_the_stage_is_given_up(
    opened: Open, database_url: str
) -> None:
    """Nobody who gives up has started it or can reach it; what was said of its start is enough to end it."""
    arming = asyncio.Event()

    class Stuck(ScriptedGuest):
        """A guest that never gets armed."""

        async def arm(self) -> None:
            arming.set()
            await asyncio.Event().wait()

    async with opened(Stuck(short_life)) as bench:
        await order(bench, "watcher")
        await asyncio.wait_for(arming.wait(), 20)
        await bench.hear(PluginStarted)
    database = await asyncpg.connect(database_url, server_settings={"search_path": "plugins"}, timeout=10)
    try:
        assert await database.execute("UPDATE work SET attempts = 4 WHERE kind = 'run-stage'") == "UPDATE 1"
    finally:
        await database.close()
    async with opened(Stuck(short_life)) as last:
        await last.hear(PluginStageFailed)
        ends = [(one.plugin, one.outcome, one.reason) for one in last.said(PluginFinished)]
    words = "the stage failed before the plugin ended: the stage could not be run: interrupted too often"
    assert ends == [("watcher", "failed", words)]


@pytest.fixture
async def laboratory(amqp_url: str, database_url: str) -> AsyncIterator[tuple[Path, RunningAgent, Bench]]:
    """A directory of plugins, a running agent, and a running service that reaches it over mutual TLS."""
    with open_folder() as folder, running_agent(folder) as agent:
        plugins = folder / "plugins-of-operator"
        make_plugin(plugins, "watcher", more=ALL_FACTS)
        make_plugin(plugins, "slow", SLOW.format(call="arm"), timeout_s=1)
        own = settings(
            amqp_url,
            database_url,
            folder,
            plugin_dirs=[plugins],
            guest_client_cert_file=folder / "client/client.pem",
            guest_client_key_file=folder / "client/client.key",
        )
        async with service(own), connected(own) as bench:
            yield folder, agent, bench


@pytest.mark.promise("D3", "D4", "P30")
async def test_over_the_real_agent_a_plugin_watches_is_told_and_leaves_nothing(
    laboratory: tuple[Path, RunningAgent, Bench],
) -> None:
    """Confined in its own process it emits what it was told; one that hangs beside it is ended; both are gone."""
    folder, agent, bench = laboratory
    guest = guest_assignment(endpoint=agent.endpoint(await agent.enrol()))
    await bench.order(SCRIPT, "syscalls", "watcher", "slow", stage="guest", name="a.sh", guest=guest)
    await bench.hear(PluginStageCompleted)
    assert bench.outcomes() == {"syscalls": "completed", "watcher": "completed", "slow": "timed_out"}
    seen = await bench.json_of("watcher", "seen")
    assert (seen[0], seen[-1]) == (["initialize", {}], "flush")
    told = [record[0] for record in seen if isinstance(record, list)][1:]
    assert "arm" in seen
    assert told[:3] == ["PluginStageStarted", "GuestConnected", "PluginStarted"]
    assert told[-1] == "ObservationEnded"
    assert len(told) == len({json.dumps(record) for record in seen if isinstance(record, list)}) - 1
    assert {"SampleStarted", "SampleExited"} <= set(told)
    assert not (folder / "plugins/watcher/scratch").stat().st_mode & 0o077
