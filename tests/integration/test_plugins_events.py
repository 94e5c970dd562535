"""Every fact that a plugin may subscribe to reaches it: each once, in order, through the real sandbox."""

from pathlib import Path

import pytest

from contracts.plugins import ObservationEnded, PluginStageCompleted, PluginStageFailed
from malbox.sdk.manifest.events import SUBSCRIBABLE
from services.plugins.ports_guest import GuestUnreachable
from tests.integration.guest_stage.lives import SCRIPT, short_life
from tests.integration.plugins_bench import Bench, ScriptedGuest, connected, guest_assignment, open_folder, service
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
async def test_each_fact_of_the_stages_is_delivered(amqp_url: str, database_url: str) -> None:
    """A static stage, a guest stage whose guest was lost, the same again: then all there is has been told, in order."""
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
    assert {fact for fact, _ in heard} == set(SUBSCRIBABLE) - OF_ARCHIVES
    before = heard[: len(said)]
    assert [fact for fact, _ in before] == [type(message).__name__ for message in said]
    assert [content for _, content in before] == [message.model_dump(mode="json") for message in said]
    assert [fact for fact, _ in heard[len(said) :]] == ["PluginStageStarted"]
    assert [content["plugin"] for _, content in picked] == ["identity"]


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
