"""What a plugin is told fits its subscriptions, keeps its order, and has a bound."""

import json

import pytest

from contracts.plugins import PluginFinished, SampleExited
from malbox.sdk.manifest import Events
from services.plugins import events as module
from services.plugins.events import Told, told

TASK = {"task_id": "tsk_" + "a" * 32, "attempt": 1, "stage": "static"}
WANTED = Events.model_validate(
    {"subscribe": ["PluginFinished"], "filters": {"PluginFinished": {"outcome": ["failed", "crashed"]}}}
)


def finished(plugin: str, outcome: str) -> PluginFinished:
    """A run ended."""
    about = {"run_id": "run_" + "b" * 32, "plugin": plugin, "version": "1.0.0", "duration_ms": 1}
    return PluginFinished.model_validate({**TASK, **about, "outcome": outcome})


def exited() -> SampleExited:
    """The sample ended."""
    return SampleExited.model_validate({**TASK, "lease_id": "lea_" + "c" * 32, "exit_code": 0})


def names(heard: Told | None) -> list[str]:
    """The plugins of the events, in order."""
    assert heard is not None
    return [event["content"]["plugin"] for event in json.loads(heard.content)["events"]]


@pytest.mark.promise("D4")
def test_what_was_subscribed_to_is_told_in_order_and_nothing_else() -> None:
    """Other facts and other values are left out."""
    facts = [finished("a", "failed"), exited(), finished("b", "completed"), finished("c", "crashed")]
    assert names(told(WANTED, facts, {})) == ["a", "c"]


def test_who_subscribes_to_nothing_is_given_nothing() -> None:
    """There is no input, not an empty one; whoever subscribed and has nothing to hear gets the empty one."""
    assert told(Events(), [exited()], {}) is None
    assert told(WANTED, [exited()], {}) == Told(b'{"events":[],"is_truncated":false}')


@pytest.mark.parametrize(("bound", "value"), [("EVENTS_MAX", 2), ("EVENTS_MAX_BYTES", 700)])
def test_of_too_many_the_latest_are_told_and_the_others_are_counted(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """A task of very many facts costs a plugin the oldest of them; those that it does not want are not among them."""
    monkeypatch.setattr(module, bound, value)
    facts = [finished(name, "completed" if name == "b" else "failed") for name in "abcde"]
    heard = told(WANTED, facts, {})
    assert names(heard) == ["d", "e"]
    assert heard is not None
    assert json.loads(heard.content)["is_truncated"]
    assert [gap.partition(":")[0] for gap in heard.gaps] == [
        "2 earlier facts that it subscribes to were not told to it"
    ]


def test_facts_into_which_nobody_looked_are_counted() -> None:
    """Those of the types that the plugin subscribes to, also where it is told of all others."""
    earlier = {PluginFinished.type_name(): 3, SampleExited.type_name(): 4}
    heard = told(WANTED, [finished("a", "failed")], earlier)
    assert names(heard) == ["a"]
    assert heard is not None
    assert json.loads(heard.content)["is_truncated"]
    assert heard.gaps == ("3 facts before those, of types that it subscribes to, were not looked at",)
