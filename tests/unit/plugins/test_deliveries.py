"""Each fact that a plugin may subscribe to, on both ways: into the input of a run, and to a plugin in a machine."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from contracts.envelope import Message
from malbox.sdk import Context, Input
from malbox.sdk.manifest import Events, load_manifest
from malbox.sdk.manifest.events import SUBSCRIBABLE
from malbox.sdk.testing import Emitted
from services.plugins.domain.catalogue import Plugin
from services.plugins.events import as_input, told
from services.plugins.guest_plugins import GuestPlugins
from tests.contracts.examples import EXAMPLES
from tests.unit.guest.bundled import make_plugin

FACTS = {type(message).__name__: message for message in EXAMPLES if type(message).__name__ in SUBSCRIBABLE}


def content_of(fact: Message) -> dict[str, Any]:
    """Its fields, as it goes over the bus."""
    return fact.model_dump(mode="json")


def test_every_fact_has_an_example() -> None:
    """A fact that is added here is delivered here."""
    assert set(FACTS) == set(SUBSCRIBABLE)


@pytest.mark.promise("D4")
@pytest.mark.parametrize("name", sorted(SUBSCRIBABLE))
def test_a_host_plugin_reads_the_fact_that_it_subscribes_to_and_no_other(name: str, tmp_path: Path) -> None:
    """From what was said, through the input, to `Context.events`: every field as it was said."""
    content = told(Events(subscribe=(name,)), list(FACTS.values()))
    assert content is not None
    given = as_input(content, tmp_path / "events")
    brought = Input(given.plugin, given.name, given.path, given.media_type)
    context = Context(tmp_path, "sample", tmp_path, Emitted(), inputs=(brought,))
    assert [(event.fact, event.content) for event in context.events] == [(name, content_of(FACTS[name]))]


class Said:
    """A store that remembers what was said of a task, and nothing else."""

    async def fetch(self, sql: str, *_arguments: object) -> list[dict[str, Any]]:
        """Every fact, the latest first, as it is stored."""
        assert "FROM said" in sql
        rows = [
            {"message_id": f"msg-{name}", "type": fact.type_name(), "data": fact.model_dump_json()}
            for name, fact in FACTS.items()
        ]
        return rows[::-1]


class Ear:
    """A session that hears what plugins are told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str, dict[str, object]]] = []

    async def tell(self, plugin: str, message_id: str, fact: str, content: dict[str, object]) -> bool:
        """Taken."""
        self.heard.append((plugin, message_id, fact, content))
        return True


@pytest.mark.promise("D4")
@pytest.mark.parametrize("name", sorted(SUBSCRIBABLE))
async def test_a_guest_plugin_is_told_the_fact_that_it_subscribes_to_once_and_no_other(
    name: str, tmp_path: Path
) -> None:
    """However often it is looked for."""
    folder = make_plugin(tmp_path, "watcher", more=f"[events]\nsubscribe = ['{name}']\n")
    plugin, ear = Plugin(load_manifest(folder), folder), Ear()
    record = SimpleNamespace(work=SimpleNamespace(store=Said()), command=SimpleNamespace(task_id="tsk"))
    planned = cast("Any", SimpleNamespace(plugin="watcher", version="1.0.0"))
    plugins = GuestPlugins(cast("Any", record), cast("Any", ear), tmp_path, (), {"watcher": (planned, plugin)})
    for _ in range(2):
        await plugins.tell()
    assert ear.heard == [("watcher", f"msg-{name}", name, content_of(FACTS[name]))]
