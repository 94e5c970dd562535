"""malbox submit: what is wrong with a file is said before it is sent, and what is asked is what arrives."""

import os
from email import message_from_bytes
from pathlib import Path

import pytest

from cli.commands.report import exit_code_of_all
from tests.unit.cli.conftest import Malbox
from tests.unit.cli.origin import TASK_ID, Answer, Origin, Request, as_json, problem, stream_of, task

SUBMISSION = {
    "submission_id": "sub_" + "c" * 32,
    "sample": {"sha256": "d" * 64, "size_bytes": 3, "name": "a.sh"},
    "tasks": [{"task_id": TASK_ID, "profile": "linux"}],
}


@pytest.fixture
def taking(origin: Origin) -> Origin:
    """An origin that accepts submissions up to 1000 bytes."""
    origin.answer("GET", "/submissions/options", as_json({"sample_max_bytes": 1000}))
    origin.answer("POST", "/submissions", as_json(SUBMISSION, 202))
    return origin


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A harmless file."""
    path = tmp_path / "a.sh"
    path.write_bytes(b"id\n")
    return path


def parts(request: Request) -> list[tuple[str, str | None, bytes]]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    form = message_from_bytes(head + request.body)
    found = []
    for part in form.get_payload():
        assert not isinstance(part, str)
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append((name, part.get_filename(), content))
    return found


@pytest.mark.promise("P21")
def test_every_option_arrives_as_its_field(taking: Origin, malbox: Malbox, sample: Path) -> None:
    """What was typed is what intake is asked."""
    options = [
        *("--package", "shell", "--archive-entry", "x", "--password", "p", "-a", "--fast", "--argument", "two words"),
        *("--plugin", "yara", "--plugin", '{"name":"elf"}', "--profile", "linux", "--machine", "linux-1"),
        *("--timeout", "60", "--enforce-timeout", "--route", "none", "--priority", "7", "--custom", "c"),
        *("--tag", "t1", "--tag", "t2", "--tlp", "red", "--children", '{"depth": 1}'),
    ]
    outcome = malbox("submit", str(sample), *options, "--json")
    assert (outcome.code, outcome.json) == (0, SUBMISSION)
    (request,) = taking.asked("POST", "/submissions")
    assert sorted(parts(request)) == sorted(
        [
            ("package", None, b"shell"),
            ("archive_entry", None, b"x"),
            ("password", None, b"p"),
            ("argument", None, b"--fast"),
            ("argument", None, b"two words"),
            ("plugin", None, b"yara"),
            ("plugin", None, b'{"name":"elf"}'),
            ("profile", None, b"linux"),
            ("machine", None, b"linux-1"),
            ("timeout", None, b"60"),
            ("enforce_timeout", None, b"true"),
            ("route", None, b"none"),
            ("priority", None, b"7"),
            ("custom", None, b"c"),
            ("tag", None, b"t1"),
            ("tag", None, b"t2"),
            ("tlp", None, b"red"),
            ("children", None, b'{"depth": 1}'),
            ("file", "a.sh", b"id\n"),
        ]
    )
    assert request.headers["authorization"] == "Bearer secret-token"
    assert len(request.headers["idempotency-key"]) == 32


def test_a_bare_submission_prints_the_task_id_for_scripts(taking: Origin, malbox: Malbox, sample: Path) -> None:
    """Standard output holds ids and nothing else; how to go on is on standard error."""
    outcome = malbox("submit", str(sample))
    assert (outcome.code, outcome.out) == (0, f"{TASK_ID}\n")
    assert f"malbox task watch {TASK_ID}" in outcome.err
    assert [name for name, _, _ in parts(taking.asked("POST", "/submissions")[0])] == ["file"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _path: None, "No such file"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.touch(), "empty"),
        (os.mkfifo, "regular"),
    ],
)
def test_a_file_that_cannot_be_submitted_is_said_so_before_anything_is_sent(
    taking: Origin, malbox: Malbox, tmp_path: Path, make: object, words: str
) -> None:
    """Exit code 2, the fault and the remedy; Malbox is not even asked."""
    path = tmp_path / "sample"
    assert callable(make)
    make(path)
    outcome = malbox("submit", str(path))
    assert outcome.code == 2
    assert words in outcome.err
    assert "→" in outcome.err
    assert taking.requests == []


@pytest.mark.promise("P43")
def test_a_file_over_the_limit_is_not_sent(taking: Origin, malbox: Malbox, tmp_path: Path) -> None:
    """Five gigabytes (sparse) are refused with the limit and what to do, without a byte on the wire."""
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(5 * 1024**3)
    outcome = malbox("submit", str(path))
    assert outcome.code == 4
    assert "5 GiB" in outcome.err
    assert "1000 bytes" in outcome.err
    assert "part that matters" in outcome.err
    assert taking.asked("POST", "/submissions") == []


def test_a_hostile_file_name_is_sent_as_a_name_only(taking: Origin, malbox: Malbox, tmp_path: Path) -> None:
    """Bytes that are no text and quotes in a name break neither the command nor the form."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff"; rm -rf $HOME\n.sh'))
    path.write_bytes(b"id\n")
    assert malbox("submit", str(path)).code == 0
    (name, filename, content), *rest = parts(taking.asked("POST", "/submissions")[0])
    assert (name, content, rest) == ("file", b"id\n", [])
    assert filename is not None
    assert filename.endswith(".sh")


@pytest.mark.promise("A2", "A3")
def test_a_refusal_shows_reason_place_and_choices(taking: Origin, malbox: Malbox, sample: Path) -> None:
    """Exit code 4, and what would have been valid."""
    taking.answer(
        "POST",
        "/submissions",
        problem(422, "unknown_profile", "No machine has it.", pointer="/profile/0", allowed=["linux", "win"]),
    )
    outcome = malbox("submit", str(sample), "--profile", "mac")
    assert outcome.code == 4
    assert "No machine has it. [/profile/0]" in outcome.err
    assert "linux, win" in outcome.err


def test_a_wrong_token_says_where_tokens_come_from(taking: Origin, malbox: Malbox, sample: Path) -> None:
    """401 is a refusal, with the two variables that matter."""
    taking.answer("GET", "/submissions/options", problem(401, "unauthenticated", "no"))
    outcome = malbox("submit", str(sample))
    assert outcome.code == 4
    assert "MALBOX_TOKEN" in outcome.err


@pytest.mark.promise("P13")
def test_a_service_that_restarts_is_asked_again_under_the_same_key(
    taking: Origin, malbox: Malbox, sample: Path
) -> None:
    """The whole file is sent again, and the key makes the repeat harmless."""
    taking.answer("POST", "/submissions", Answer(502), Answer(503, {"Retry-After": "0"}), as_json(SUBMISSION, 202))
    assert malbox("submit", str(sample)).code == 0
    requests = taking.asked("POST", "/submissions")
    assert [parts(each)[0][2] for each in requests] == [b"id\n"] * 3
    assert len({each.headers["idempotency-key"] for each in requests}) == 1


def test_waiting_follows_the_task_and_prints_its_report(taking: Origin, malbox: Malbox, sample: Path) -> None:
    """--wait --json yields submission, task and report in one document; progress goes to standard error."""
    states = [("task", task(state)) for state in ("queued", "running", "completed")]
    taking.answer("GET", f"/tasks/{TASK_ID}/events", stream_of(*states))
    taking.answer("GET", f"/tasks/{TASK_ID}/report", as_json({"verdict": "benign"}))
    outcome = malbox("submit", str(sample), "--wait", "--json")
    assert outcome.code == 0
    assert outcome.json["reports"] == [{"verdict": "benign"}]
    assert outcome.json["tasks"][0]["state"] == "completed"
    positions = [outcome.err.index(state) for state in ("queued", "running", "completed")]
    assert positions == sorted(positions)


@pytest.mark.promise("A4", "P32")
@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("completed", 0),
        ("failed", 1),
        ("timed_out", 5),
        ("failed guest_lost", 6),
        ("cancelled", 7),
        ("unserviceable", 8),
    ],
)
def test_how_a_task_ended_is_the_exit_status_and_its_reason_is_shown(
    taking: Origin, malbox: Malbox, sample: Path, state: str, code: int
) -> None:
    """A script sees the difference, and a person sees why."""
    state, _, rule = state.partition(" ")
    ended = task(state, outcome_reason="the guest was lost", ended_by=rule or None)
    taking.answer("GET", f"/tasks/{TASK_ID}/events", stream_of(("task", ended)))
    taking.answer("GET", f"/tasks/{TASK_ID}/report", problem(404, "report_not_ready", "none"))
    outcome = malbox("submit", str(sample), "--wait")
    assert outcome.code == code
    assert "the guest was lost" in outcome.out


def test_tasks_that_ended_in_different_ways_are_a_failure() -> None:
    """One status for several tasks: theirs, if they have one in common."""
    ended, late = task("completed"), task("timed_out")
    assert exit_code_of_all([ended, ended]) == 0
    assert exit_code_of_all([ended, late, late]) == 5
    assert exit_code_of_all([ended, late, task("cancelled")]) == 1
