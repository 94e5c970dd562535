"""malbox task watch: follows a task through restarts, and shows nothing that could fool a person."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import sse, watch
from tests.unit.cli.conftest import Malbox
from tests.unit.cli.origin import TASK_ID, Answer, Origin, as_json, problem, stream_of, task

EVENTS = f"/tasks/{TASK_ID}/events"
REPORT = f"/tasks/{TASK_ID}/report"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are short here; how often and how long is what is tested."""
    monkeypatch.setattr(watch, "AWAY_POLL_FIRST_S", 0.01)
    monkeypatch.setattr(watch, "AWAY_POLL_MAX_S", 0.02)
    monkeypatch.setattr(watch, "UNKNOWN_POLL_S", 0.01)


def test_a_task_that_is_not_known_yet_is_waited_for(origin: Origin, malbox: Malbox) -> None:
    """Right after a submission the scheduler may not have heard of it."""
    unknown = problem(404, "unknown_task", "There is no such task.")
    origin.answer("GET", EVENTS, unknown, unknown, stream_of(("task", task("completed"))))
    origin.answer("GET", REPORT, as_json({}))
    assert malbox("task", "watch", TASK_ID, "--json").code == 0


def test_a_task_that_never_becomes_known_is_refused(
    origin: Origin, malbox: Malbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded."""
    monkeypatch.setattr(watch, "UNKNOWN_MAX_S", 0.05)
    origin.answer("GET", EVENTS, problem(404, "unknown_task", "There is no such task."))
    outcome = malbox("task", "watch", TASK_ID)
    assert outcome.code == 4
    assert "There is no such task." in outcome.err


@pytest.mark.promise("P3")
def test_a_restart_of_the_service_does_not_end_the_watch(origin: Origin, malbox: Malbox) -> None:
    """A cut stream, a 502 and a 503 later the task is still followed to its end."""
    origin.answer(
        "GET",
        EVENTS,
        stream_of(("task", task("queued"))),
        Answer(502),
        problem(503, "store_unavailable", "later"),
        stream_of(("task", task("running")), ("task", task("completed"))),
    )
    origin.answer("GET", REPORT, as_json({"verdict": "unknown"}))
    outcome = malbox("task", "watch", TASK_ID, "--json")
    assert (outcome.code, outcome.json["task"]["state"]) == (0, "completed")
    assert "come back" in outcome.err


def test_a_service_that_stays_away_ends_the_watch_with_3(
    origin: Origin, malbox: Malbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patience is bounded, and the task is said to be watchable again."""
    monkeypatch.setattr(watch, "AWAY_MAX_S", 0.1)
    origin.answer("GET", EVENTS, stream_of(("task", task("running"))), Answer(502))
    outcome = malbox("task", "watch", TASK_ID)
    assert outcome.code == 3
    assert f"malbox task watch {TASK_ID}" in outcome.err


def test_ctrl_c_says_how_to_go_on(origin: Origin, malbox: Malbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task goes on, and so can the watching."""

    def interrupted(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "_stream", interrupted)
    origin.answer("GET", EVENTS, stream_of(("task", task("running"))))
    outcome = malbox("task", "watch", TASK_ID)
    assert outcome.code == 130
    assert f"malbox task watch {TASK_ID}" in outcome.err


def test_what_is_waited_for_is_shown(origin: Origin, malbox: Malbox) -> None:
    """State, reason, machine, attempt and the latest fact are lines of their own on a pipe."""
    finished = {"type": "malbox.plugin.finished.v1", "plugin": "yara", "outcome": "completed"}
    origin.answer(
        "GET",
        EVENTS,
        stream_of(
            ("task", task("queued", why="waiting for a clean machine", machine_id=None)),
            ("task", task("running", attempts=2)),
            ("fact", finished),
            ("task", task("completed")),
        ),
    )
    origin.answer("GET", REPORT, problem(404, "report_not_ready", "none"))
    lines = malbox("task", "watch", TASK_ID).err.splitlines()
    assert lines[0].endswith(f"{TASK_ID} queued (waiting for a clean machine)")
    assert lines[1].endswith("running on linux-1 attempt 2 of 3")
    assert lines[2].endswith("- plugin finished: yara completed")


@pytest.mark.promise("P49")
def test_hostile_words_of_a_task_cannot_move_the_cursor(origin: Origin, malbox: Malbox) -> None:
    """Escape sequences, markup and direction marks are shown, not obeyed."""
    hostile = "\x1b[2J\x1b]0;owned\x07[bold red]fine[/]\u202e\nFAKE completed"
    origin.answer("GET", EVENTS, stream_of(("task", task("failed", why=hostile, outcome_reason=hostile))))
    origin.answer("GET", REPORT, problem(404, "report_not_ready", "none"))
    outcome = malbox("task", "watch", TASK_ID)
    for text in (outcome.out, outcome.err):
        assert not set("\x1b\x07\u202e") & set(text)
        assert "[bold red]fine[/]" in text
        assert not any(line.startswith("FAKE") for line in text.splitlines())


def test_events_are_read_as_the_standard_says() -> None:
    """Comments, several data lines, ids, fields without a value, and a cut end."""
    lines = [": hi", "", "event: task", "data: a", "data: b", "id: 7", "", "data", "", "data: cut"]
    assert list(sse.events(lines)) == [sse.Event("task", "a\nb", "7"), sse.Event("message", "", "7")]


@given(st.lists(st.text(max_size=20), max_size=30))
def test_any_lines_are_read(lines: list[str]) -> None:
    """Whatever a server sends, reading ends without a fault."""
    assert len(list(sse.events(lines))) <= len(lines)


@given(st.dictionaries(st.sampled_from(["type", "stage", "plugin", "reason"]), st.text() | st.integers()))
def test_any_fact_can_be_put_into_words(fact: dict[str, Any]) -> None:
    """A fact of a later release does not end the watch."""
    assert isinstance(watch.in_words(json.loads(json.dumps(fact))), str)
