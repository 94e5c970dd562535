"""Every fact that a plugin may subscribe to reaches it: each once, in order, through the real sandbox."""

import asyncio
import io
import re
import zipfile
from pathlib import Path

import pytest

from contracts.ids import derived
from contracts.plugins import (
    ChildrenFound,
    ObservationEnded,
    PluginStageCompleted,
    PluginStageFailed,
    PluginStageSkipped,
    SampleStarted,
)
from malbox.sdk.manifest.events import SUBSCRIBABLE
from services.plugins import events, rows
from services.plugins.ports_guest import GuestUnreachable, ProcessExited, ProcessStarted, TreeEmpty
from tests.integration.guest_stage.lives import SCRIPT, short_life
from tests.integration.plugins_bench import (
    HEARING_MAX_S,
    Bench,
    ScriptedGuest,
    connected,
    guest_assignment,
    open_folder,
    service,
)
from tests.integration.plugins_bench import settings as settings_of
from tests.integration.test_plugins_service import add_plugin
from tests.unit.guest.bundled import make_plugin

OF_ARCHIVES = {"ChildrenFound", "PluginStageSkipped"}
"""Said of samples that have others inside, which no guest runs."""
LISTENER = (
    "def run(context):\n    context.emit_json('count', [[event.fact, event.content] for event in context.events])\n"
)


def add_listener(directory: Path, name: str, subscribe: list[str], filters: str = "") -> None:
    """A plugin that emits what it was told."""
    add_plugin(directory, name, LISTENER, stages='["static", "post"]')
    path = directory / name / "plugin.toml"
    path.write_text(f"{path.read_text()}\n[events]\nsubscribe = {subscribe}\n{filters}", encoding="utf-8")


class LostOnce(ScriptedGuest):
    """A guest whose first launch is the last that is heard of it."""

    launches: int = 0

    async def flush(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        """Gone, the first time."""
        self.launches += 1
        if self.launches == 1:
            raise GuestUnreachable("gone")
        return await super().flush()


async def heard_by(bench: Bench, plugin: str, stage: str = "post") -> list[tuple[str, dict[str, object]]]:
    """What the plugin was told, run in a stage of its own now."""
    completed = len(bench.said(PluginStageCompleted))
    await bench.order(SCRIPT, plugin, stage=stage)
    await bench.hear(PluginStageCompleted, completed + 1)
    return [(fact, content) for fact, content in await bench.json_of(plugin, "count")]


@pytest.mark.promise("D4")
async def test_each_fact_of_the_stages_is_delivered(
    amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A static stage, a guest stage whose guest was lost, the same again: then all there is has been told, in order.

    What there is beyond the bounds is counted, where the run's end is told.
    """
    with open_folder() as folder:
        add_listener(folder / "plugins", "listener", sorted(SUBSCRIBABLE))
        add_listener(
            folder / "plugins", "picky", ["PluginFinished"], "[events.filters.PluginFinished]\nplugin = 'identity'\n"
        )
        own = settings_of(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with service(own, LostOnce(short_life)) as _, connected(own) as bench:
            await bench.order(SCRIPT, "identity", "picky")
            await bench.hear(PluginStageCompleted)
            for attempt in (1, 2):
                await bench.order(
                    SCRIPT, "syscalls", stage="guest", guest=guest_assignment(), attempt=attempt,
                    request={"timeout_s": 5},
                )  # fmt: skip
                await bench.hear(*((PluginStageFailed,) if attempt == 1 else (PluginStageCompleted, 2)))
            said = [message for message in bench.heard if type(message).__name__ in SUBSCRIBABLE]
            heard = await heard_by(bench, "listener")
            picked = await bench.json_of("picky", "count")
            monkeypatch.setattr(events, "EVENTS_MAX", 2)
            monkeypatch.setattr(rows, "SAID_MAX", 5)
            await bench.order(SCRIPT, "listener", stage="post", attempt=2)
            [*_, cut] = await bench.hear(PluginStageCompleted, 4)
    assert {fact for fact, _ in heard} == set(SUBSCRIBABLE) - OF_ARCHIVES
    before = heard[: len(said)]
    assert [fact for fact, _ in before] == [type(message).__name__ for message in said]
    assert [content for _, content in before] == [message.model_dump(mode="json") for message in said]
    assert [fact for fact, _ in heard[len(said) :]] == ["PluginStageStarted"]
    assert [content["plugin"] for _, content in picked] == ["identity"]
    [error] = cut.errors
    assert (error.plugin, error.outcome) == ("listener", "failed")
    assert error.reason.startswith("3 earlier facts that it subscribes to were not told to it: there were more than 2")
    assert re.search(
        r"; [1-9]\d* facts before those, of types that it subscribes to, were not looked at$", error.reason
    )


@pytest.mark.promise("D4")
async def test_what_is_said_of_an_archive_is_delivered(amqp_url: str, database_url: str) -> None:
    """That no guest runs it, to a plugin of the very stage that says so; what is inside, to a plugin of a later one."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.sh", SCRIPT)
        opened.writestr("b.py", "import os\n")
    with open_folder() as folder:
        for name in ("early", "late"):
            add_listener(folder / "plugins", name, sorted(OF_ARCHIVES))
        own = settings_of(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with service(own), connected(own) as bench:
            of = {"name": "x.zip", "submission_id": derived("sub", bench.task_id)}
            await bench.order(archive.getvalue(), "archives", "early", **of)
            await bench.hear(PluginStageCompleted)
            await bench.order(archive.getvalue(), "late", stage="post", **of)
            await bench.hear(PluginStageCompleted, 2)
            told = {name: await bench.json_of(name, "count") for name in ("early", "late")}
    [skipped], [found] = bench.said(PluginStageSkipped), bench.said(ChildrenFound)
    of_skipped = ["PluginStageSkipped", skipped.model_dump(mode="json")]
    assert told["early"] == [of_skipped]
    assert told["late"] == [of_skipped, ["ChildrenFound", found.model_dump(mode="json")]]
    assert {child.name for child in found.children} == {"a.sh", "b.py"}


@pytest.mark.promise("D4")
async def test_a_guest_plugin_is_told_while_it_watches_what_was_found_inside(amqp_url: str, database_url: str) -> None:
    """The static stage ends beside it. Where a guest stage is skipped no guest plugin is in a machine to hear of it."""

    async def until_told(guest: ScriptedGuest) -> None:
        """The sample lives until the plugin was told of anything."""
        guest.say(ProcessStarted(1, 100, is_first=True))
        async with asyncio.timeout(HEARING_MAX_S):
            while not guest.told:  # noqa: ASYNC110 - the script has nothing else to wait for
                await asyncio.sleep(0.05)
        guest.say(ProcessExited(2, 100, is_first=True, exit_code=0, signal=None))
        guest.say(TreeEmpty(3))

    guest = ScriptedGuest(until_told)
    with open_folder() as folder:
        plugins = folder / "plugins"
        add_plugin(
            plugins, "opener", "def run(context):\n    context.emit_bytes('children/a', b'#!/bin/sh\\ntrue\\n')\n"
        )
        manifest = plugins / "opener/plugin.toml"
        text = manifest.read_text().replace("results.piece", "results.children").replace('"file"', '"bytes"')
        manifest.write_text(text, encoding="utf-8")
        make_plugin(plugins, "watcher", more=f"[events]\nsubscribe = {sorted(OF_ARCHIVES)}\n")
        own = settings_of(amqp_url, database_url, folder, plugin_dirs=[plugins])
        async with service(own, guest), connected(own) as bench:
            watched = {"timeout_s": 60}
            await bench.order(SCRIPT, "watcher", stage="guest", guest=guest_assignment(), request=watched)
            await bench.hear(SampleStarted)
            await bench.order(SCRIPT, "opener", submission_id=derived("sub", bench.task_id))
            await bench.hear(PluginStageCompleted, 2)
    [found] = bench.said(ChildrenFound)
    [(plugin, _id, fact, content)] = guest.told
    assert (plugin, fact, content) == ("watcher", "ChildrenFound", found.model_dump(mode="json"))
    assert [child.package for child in found.children] == ["shell"]


@pytest.mark.promise("D4")
async def test_each_fact_of_the_stages_is_delivered_to_a_guest_plugin(amqp_url: str, database_url: str) -> None:
    """A static stage, a guest stage whose guest was lost, the same again: each fact once, as it was said."""
    guest = LostOnce(short_life)
    with open_folder() as folder:
        make_plugin(folder / "plugins", "watcher", more=f"[events]\nsubscribe = {sorted(SUBSCRIBABLE)}\n")
        own = settings_of(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with service(own, guest), connected(own) as bench:
            await bench.order(SCRIPT, "identity")
            await bench.hear(PluginStageCompleted)
            for attempt in (1, 2):
                await bench.order(
                    SCRIPT, "watcher", stage="guest", guest=guest_assignment(), attempt=attempt,
                    request={"timeout_s": 5},
                )  # fmt: skip
                await bench.hear(*((PluginStageFailed,) if attempt == 1 else (PluginStageCompleted, 2)))
            said = [message for message in bench.heard if type(message).__name__ in SUBSCRIBABLE]
    last = max(place for place, message in enumerate(said) if isinstance(message, ObservationEnded))
    assert {fact for _plugin, _id, fact, _content in guest.told} == set(SUBSCRIBABLE) - OF_ARCHIVES
    assert [content for *_, content in guest.told] == [message.model_dump(mode="json") for message in said[: last + 1]]
