"""What a plugin is told fits its subscriptions, keeps its order, and has a bound."""

import json

import pytest

from contracts.plugins import PluginFinished, SampleExited
from malbox.sdk.manifest import Events
from services.plugins import events as module
from services.plugins.events import told

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


def names(content: bytes | None) -> list[str]:
    """The plugins of the events, in order."""
    assert content is not None
    return [event["content"]["plugin"] for event in json.loads(content)["events"]]


@pytest.mark.promise("D4")
def test_what_was_subscribed_to_is_told_in_order_and_nothing_else() -> None:
    """Other facts and other values are left out."""
    facts = [finished("a", "failed"), exited(), finished("b", "completed"), finished("c", "crashed")]
    assert names(told(WANTED, facts)) == ["a", "c"]


def test_who_subscribes_to_nothing_is_given_nothing() -> None:
    """There is no input, not an empty one; whoever subscribed and has nothing to hear gets the empty one."""
    assert told(Events(), [exited()]) is None
    assert json.loads(told(WANTED, [exited()]) or b"") == {"events": [], "is_truncated": False}


@pytest.mark.parametrize(("bound", "value"), [("EVENTS_MAX", 2), ("EVENTS_MAX_BYTES", 700)])
def test_of_too_many_the_latest_are_told_and_the_cut_is_said(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """A task of very many facts costs a plugin the oldest of them."""
    monkeypatch.setattr(module, bound, value)
    content = told(WANTED, [finished(name, "failed") for name in "abcde"])
    assert names(content) == ["d", "e"]
    assert json.loads(content or b"")["is_truncated"]


def test_of_facts_that_were_cut_already_the_cut_is_said() -> None:
    """Also where the plugin is told of all that are left."""
    content = told(WANTED, [finished("a", "failed")], is_cut=True)
    assert names(content) == ["a"]
    assert json.loads(content or b"")["is_truncated"]
