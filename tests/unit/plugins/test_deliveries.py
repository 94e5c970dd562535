"""Each fact that a plugin may subscribe to, on both ways: into the input of a run, and to a plugin in a machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from contracts.envelope import Message
from malbox.sdk import Context, Input
from malbox.sdk.manifest import Events, load_manifest
from malbox.sdk.manifest.events import SUBSCRIBABLE
from malbox.sdk.testing import Emitted
from services.chassis.clock import SystemClock
from services.chassis.unit import Unit
from services.plugins import rows
from services.plugins.domain.catalogue import Plugin
from services.plugins.events import as_input, told
from services.plugins.guest_plugins import GuestPlugins
from services.plugins.task_news import TaskNews
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
    heard = told(Events(subscribe=(name,)), list(FACTS.values()), {})
    assert heard is not None
    given = as_input(heard.content, tmp_path / "events")
    brought = Input(given.plugin, given.name, given.path, given.media_type)
    context = Context(tmp_path, "sample", tmp_path, Emitted(), inputs=(brought,))
    assert [(event.fact, event.content) for event in context.events] == [(name, content_of(FACTS[name]))]


class Said:
    """A store that remembers what was said of a task, and nothing else."""

    def __init__(self, facts: Sequence[tuple[str, Message]]) -> None:
        self.facts = facts
        self.most = 0

    async def fetch(
        self, sql: str, task_id: str, kinds: list[str], told: list[str], limit: int
    ) -> list[dict[str, Any]]:
        """The first of those types that were not told, as they are stored."""
        assert "FROM said" in sql
        assert task_id == "tsk"
        found = [
            {"message_id": message_id, "type": fact.type_name(), "data": fact.model_dump_json()}
            for message_id, fact in self.facts
            if fact.type_name() in kinds and message_id not in told
        ][:limit]
        self.most = max(self.most, len(found))
        return found


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
    ear, said = Ear(), Said([(f"msg-{kind}", fact) for kind, fact in FACTS.items()])
    plugins = watching(tmp_path, ear, said, name)
    for _ in range(2):
        await plugins.tell()
    assert ear.heard == [("watcher", f"msg-{name}", name, content_of(FACTS[name]))]
    assert said.most == 1


@pytest.mark.promise("D4")
async def test_a_guest_plugin_is_told_each_of_very_many_facts_in_order_and_few_are_loaded_at_once(
    tmp_path: Path,
) -> None:
    """More than a page, and more than a host plugin's input takes in."""
    fact = FACTS["PluginResultProduced"]
    ear, said = Ear(), Said([(f"msg-{number}", fact) for number in range(rows.SAID_MAX + 1)])
    await watching(tmp_path, ear, said, "PluginResultProduced").tell()
    assert [message_id for _, message_id, *_ in ear.heard] == [message_id for message_id, _ in said.facts]
    assert said.most == rows.TOLD_AT_ONCE_MAX


def watching(folder: Path, ear: Ear, said: Said, fact: str) -> GuestPlugins:
    """The plugins of a stage: one, which subscribes to that fact."""
    made = make_plugin(folder, "watcher", more=f"[events]\nsubscribe = ['{fact}']\n")
    plugin = Plugin(load_manifest(made), made)
    record = SimpleNamespace(work=SimpleNamespace(store=said), command=SimpleNamespace(task_id="tsk"))
    planned = cast("Any", SimpleNamespace(plugin="watcher", version="1.0.0"))
    return GuestPlugins(cast("Any", record), cast("Any", ear), folder, (), {"watcher": (planned, plugin)})


async def test_only_facts_that_somebody_waits_for_are_news() -> None:
    """Of the task, and of the types that are subscribed to."""
    listeners: list[Callable[[Any], None]] = []
    news = TaskNews(cast("Any", SimpleNamespace(on_commit=listeners.append)))
    event = news.of("tsk", {FACTS["ChildrenFound"].type_name()})

    def is_news(task_id: str, fact: Message) -> bool:
        """Whether the one who waits is told of the commit."""
        event.clear()
        unit = Unit(service="plugins", at=SystemClock().now(), uuid=uuid4, announce=lambda *_: ())
        rows.keep_said(unit, rows.StageKey(task_id, 1, "static"), "msg", fact, is_awaited=False, place=0)
        for listener in listeners:
            listener(unit)
        return event.is_set()

    assert is_news("tsk", FACTS["ChildrenFound"])
    assert not is_news("tsk", FACTS["PluginStarted"])
    assert not is_news("other", FACTS["ChildrenFound"])
    news.forget("tsk")
    assert not is_news("tsk", FACTS["ChildrenFound"])
