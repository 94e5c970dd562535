"""The other commands: each asks the API what it says it asks, and prints it for people and for programs."""

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import typer

from cli import reference
from cli.app import app
from cli.commands.artifacts import file_name
from tests.unit.cli.conftest import Malbox
from tests.unit.cli.origin import RESULT_ID, TASK_ID, Answer, Origin, as_json, stream_of, task

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
CONTENT = b"evidence" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.promise("F1")
def test_the_reference_is_what_the_commands_are() -> None:
    """The page is generated; a difference means that it was not generated again."""
    assert PAGE.read_text() == reference.reference()


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(path, command)]
    return [leaf for name, each in inner.items() for leaf in leaves(each, (*path, name))]


def test_every_command_can_speak_json() -> None:
    """A script never has to read a table."""
    found = leaves(typer.main.get_command(app))
    assert len(found) >= 16
    for path, command in found:
        assert "--json" in {name for each in command.params for name in each.opts}, path


def test_wrong_usage_exits_2(malbox: Malbox) -> None:
    """An unknown command, an unknown option, a missing argument."""
    assert [malbox(*each).code for each in (["nope"], ["task", "list", "--nope"], ["report"])] == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "path", "content"),
    [
        (["task", "show", TASK_ID], f"/tasks/{TASK_ID}", task("running")),
        (["machine", "list"], "/machines", {"items": [{"machine_id": "linux-1", "state": "ready"}]}),
        (["machine", "show", "linux-1"], "/machines/linux-1", {"machine_id": "linux-1", "history": []}),
        (["plugin", "list"], "/plugins", {"items": [{"name": "yara", "version": "1.0.0"}]}),
        (
            ["artifacts", "list", TASK_ID],
            f"/tasks/{TASK_ID}/artifacts",
            {"items": [{"result_id": RESULT_ID, "name": "dropped"}]},
        ),
    ],
)
def test_what_the_api_says_is_shown_and_passed_on(
    origin: Origin, malbox: Malbox, arguments: list[str], path: str, content: dict[str, Any]
) -> None:
    """For people in a table, for programs unchanged."""
    origin.answer("GET", path, as_json(content))
    told = malbox(*arguments)
    shown = next(iter(content["items"][0].values() if "items" in content else content.values()))
    assert (told.code, str(shown) in told.out) == (0, True)
    assert malbox(*arguments, "--json").json == content


def test_a_listing_passes_its_filters_on_and_says_how_to_see_more(origin: Origin, malbox: Malbox) -> None:
    """state, limit and after reach the API."""
    origin.answer("GET", "/tasks", as_json({"items": [task("failed")], "next": "tsk_next"}))
    outcome = malbox("task", "list", "--state", "failed", "--limit", "1", "--after", "tsk_x")
    assert origin.requests[0].query == {"state": ["failed"], "limit": ["1"], "after": ["tsk_x"]}
    assert "--after tsk_next" in outcome.err


def test_cancelling_sends_the_reason(origin: Origin, malbox: Malbox) -> None:
    """Why a task was ended is on record."""
    origin.answer("POST", f"/tasks/{TASK_ID}/cancel", as_json(task("cancelled"), 202))
    assert malbox("task", "cancel", TASK_ID, "--reason", "mistake").code == 0
    assert json.loads(origin.requests[0].body) == {"reason": "mistake"}


@pytest.mark.promise("E1", "P31")
def test_an_artifact_is_saved_whole_and_without_the_right_to_run(
    origin: Origin, malbox: Malbox, tmp_path: Path
) -> None:
    """The bytes are those that the server hashed, and the file is nobody's program."""
    origin.answer("GET", f"/artifacts/{RESULT_ID}", Answer(200, {"ETag": f'"{DIGEST}"'}, [CONTENT]))
    target = tmp_path / "evidence"
    outcome = malbox("artifacts", "get", RESULT_ID, "--output", str(target), "--json")
    assert (outcome.code, target.read_bytes()) == (0, CONTENT)
    assert outcome.json["items"][0]["sha256"] == DIGEST
    assert not target.stat().st_mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    again = malbox("artifacts", "get", RESULT_ID, "--output", str(target))
    assert again.code == 2
    assert "exists already" in again.err


@pytest.mark.promise("P31")
def test_a_damaged_download_leaves_nothing_behind(origin: Origin, malbox: Malbox, tmp_path: Path) -> None:
    """Bytes that do not have the promised hash are not an artifact."""
    origin.answer("GET", f"/artifacts/{RESULT_ID}", Answer(200, {"ETag": f'"{DIGEST}"'}, [CONTENT[:-1]]))
    outcome = malbox("artifacts", "get", RESULT_ID, "--output", str(tmp_path / "evidence"))
    assert outcome.code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise("G5")
def test_all_artifacts_of_a_task_go_into_one_directory_under_harmless_names(
    origin: Origin, malbox: Malbox, tmp_path: Path
) -> None:
    """A name that a sample chose cannot leave the directory."""
    items = [{"result_id": RESULT_ID, "name": "../../.bashrc"}]
    origin.answer("GET", f"/tasks/{TASK_ID}/artifacts", as_json({"items": items, "next": None}))
    origin.answer("GET", f"/artifacts/{RESULT_ID}", Answer(200, {"ETag": f'"{DIGEST}"'}, [CONTENT]))
    outcome = malbox("artifacts", "get", TASK_ID, "--output", str(tmp_path / "out"))
    assert outcome.code == 0
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        f"out/{RESULT_ID}-bashrc"
    ]


@pytest.mark.parametrize("name", ["", "..", "/", "\x1b[2J", "-rf", "a" * 5000, "con\0.txt"])
def test_the_name_of_a_saved_artifact_is_harmless(name: str) -> None:
    """The id comes first, the rest is plain."""
    shown = file_name(RESULT_ID, name)
    assert shown.startswith(RESULT_ID)
    assert len(shown) < 200
    assert set(shown) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_an_id_that_is_neither_is_wrong_usage(origin: Origin, malbox: Malbox) -> None:
    """Nothing is asked."""
    assert malbox("artifacts", "get", "whatever").code == 2
    assert origin.requests == []


def test_the_audit_record_is_replayed_from_where_it_is_asked(origin: Origin, malbox: Malbox) -> None:
    """Offset or instant go to the API; each record is one line of JSON."""
    records = [{"offset": 7, "event": {"type": "malbox.task.completed.v1", "subject": TASK_ID}}]
    origin.answer("GET", "/events/replay", Answer(200, {}, [json.dumps(each).encode() + b"\n" for each in records]))
    outcome = malbox("events", "replay", "--from", "7", "--json")
    assert [json.loads(line) for line in outcome.out.splitlines()] == records
    assert origin.requests[0].query["from"] == ["7"]
    assert "malbox.task.completed.v1" in malbox("events", "replay").out


def test_the_tail_prints_changes_and_ends_when_it_is_refused(
    origin: Origin, malbox: Malbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut stream is joined again; a refusal is the end."""
    monkeypatch.setattr("cli.commands.events.RETRY_S", 0.01)
    origin.answer("GET", "/events", stream_of(("task", task("queued"))), Answer(502), Answer(401))
    outcome = malbox("events", "tail", "--json")
    assert outcome.code == 4
    assert json.loads(outcome.out)["state"] == "queued"


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1, 2]"])
def test_an_origin_that_is_something_else_is_said_so(origin: Origin, malbox: Malbox, body: bytes) -> None:
    """An error page of a proxy is no traceback."""
    origin.answer("GET", f"/tasks/{TASK_ID}", Answer(404, {}, [body]))
    outcome = malbox("task", "show", TASK_ID)
    assert outcome.code == 4
    assert "Traceback" not in outcome.err


@pytest.mark.promise("A4")
def test_a_task_is_shown_with_what_each_phase_took_and_why_attempts_were_lost(origin: Origin, malbox: Malbox) -> None:
    """Phases that took nothing are left out."""
    shown = task(
        "running",
        phases=[
            {"phase": "queue", "budget_s": 86400, "spent_s": 12.5},
            {"phase": "grace", "budget_s": 120, "spent_s": 0},
        ],
        lost_attempts=[
            {"attempt": 1, "machine_id": "linux-2", "at": "then", "outcome": "guest_lost", "reason": "no answer"}
        ],
    )
    origin.answer("GET", f"/tasks/{TASK_ID}", as_json(shown))
    outcome = malbox("task", "show", TASK_ID)
    assert all(word in outcome.out for word in ("queue", "12.5", "86400", "linux-2", "guest_lost", "no answer"))
    assert "grace" not in outcome.out


def test_a_child_is_shown_with_the_task_that_it_was_found_in(origin: Origin, malbox: Malbox) -> None:
    """And what it is called there, and what it was judged to be."""
    parent_id = "tsk_" + "9" * 32
    parent = {"task_id": parent_id, "depth": 1, "name": "bin/a.sh", "plugin": "archives"}
    origin.answer("GET", f"/tasks/{TASK_ID}", as_json(task("completed", parent=parent, verdict="malicious", score=70)))
    outcome = malbox("task", "show", TASK_ID)
    assert all(word in outcome.out for word in (parent_id, "bin/a.sh", "archives", "malicious", "70/100"))
