"""What operators decide: dead letters and machines, each with a reason, each passed on as it was said."""

import json
from typing import Any

import pytest

from deploy.local.state import SERVICES
from tests.unit.cli.conftest import Malbox
from tests.unit.cli.origin import Origin, as_json, problem

ONE, OTHER = "results-" + "a" * 24, "machines-" + "b" * 24


def message(identity: str, **more: Any) -> dict[str, Any]:
    """A parked message's JSON."""
    return {
        "id": identity,
        "type": "malbox.sample.stored.v1",
        "subject": "tsk_1",
        "reason": "it does not fit",
        "times": 1,
        "state": "parked",
        "parked_at": "2026-01-31T12:00:00+00:00",
        **more,
    }


def page(*items: dict[str, Any], following: str | None = None) -> Any:
    """One page of a listing."""
    return as_json({"items": list(items), "next": following})


def test_dead_letters_of_every_service_are_listed_the_latest_first(origin: Origin, malbox: Malbox) -> None:
    """Every page of every service is asked for, only what waits for a decision."""
    for service in SERVICES:
        origin.answer("GET", f"/dead/{service}", page())
    origin.answer("GET", "/dead/results", page(message(ONE), following=ONE), page(message("results-" + "c" * 24)))
    origin.answer("GET", "/dead/machines", page(message(OTHER, parked_at="2026-02-01T12:00:00+00:00")))
    listed = malbox("dead", "list", "--json")
    assert [each["id"] for each in listed.json["items"]] == [OTHER, ONE, "results-" + "c" * 24]
    first, second = origin.asked("GET", "/dead/results")
    assert (first.query["state"], "after" in first.query) == (["parked"], False)
    assert second.query["after"] == [ONE]
    origin.answer("GET", "/dead/results", page(message(ONE, state="dropped", decided_by="root", decided_why="old")))
    everything = malbox("dead", "list", "--all", "--service", "results")
    assert "state" not in origin.asked("GET", "/dead/results")[-1].query
    assert "root" in everything.out
    assert "old" in everything.out


def test_a_service_that_is_away_hides_no_other(origin: Origin, malbox: Malbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are listed, the absent one is named, and the exit status says that something is missing."""
    monkeypatch.setattr("cli.client.TRIES", 1)
    for service in SERVICES:
        origin.answer("GET", f"/dead/{service}", page())
    origin.answer("GET", "/dead/results", page(message(ONE)))
    origin.answer("GET", "/dead/intake", problem(502, "service_unavailable", "away"))
    listed = malbox("dead", "list")
    assert (listed.code, ONE[:12] in listed.out, "intake does not answer" in listed.err) == (3, True, True)


def test_a_dead_letter_is_shown_with_its_body_and_who_decided(origin: Origin, malbox: Malbox) -> None:
    """What the message says is data: control characters in it do nothing."""
    actions = [{"at": "t", "who": "root", "action": "replayed", "reason": "mended"}]
    content = message(ONE, body='{"id": "\x1b[2J"}', actions=actions)
    origin.answer("GET", f"/dead/results/{ONE}", as_json(content))
    shown = malbox("dead", "show", ONE)
    assert (shown.code, "\x1b" in shown.out, "mended" in shown.out) == (0, False, True)
    assert malbox("dead", "show", ONE, "--json").json == content


@pytest.mark.parametrize(("verb", "state"), [("replay", "replayed"), ("drop", "dropped")])
def test_a_decision_goes_to_the_service_that_parked_the_message(
    origin: Origin, malbox: Malbox, verb: str, state: str
) -> None:
    """Several at once, each with the same reason."""
    origin.answer("POST", f"/dead/results/{ONE}/{verb}", as_json(message(ONE, state=state), 202))
    origin.answer("POST", f"/dead/machines/{OTHER}/{verb}", as_json(message(OTHER, state=state), 202))
    outcome = malbox("dead", verb, ONE, OTHER, "--reason", "mended")
    assert (outcome.code, outcome.err.count(state)) == (0, 2)
    assert [json.loads(each.body) for each in origin.requests] == [{"reason": "mended"}] * 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead", "replay", ONE],
        ["dead", "drop", ONE],
        ["dead", "replay", "--reason", "r"],
        ["dead", "replay", "nonsense", "--reason", "r"],
        ["dead", "drop", ONE, "results-../../tasks", "--reason", "r"],
        ["dead", "show", "tsk_1"],
        ["dead", "list", "--service", "nobody"],
    ],
)
def test_a_decision_without_a_reason_or_an_id_is_wrong_usage(
    origin: Origin, malbox: Malbox, arguments: list[str]
) -> None:
    """Nothing is asked, and nothing of several is decided when one id is none."""
    assert malbox(*arguments).code == 2
    assert origin.requests == []


def test_a_refused_decision_is_said_in_the_services_words(origin: Origin, malbox: Malbox) -> None:
    """Exit status 4."""
    origin.answer("POST", f"/dead/results/{ONE}/drop", problem(409, "already_decided", f"{ONE} was replayed."))
    outcome = malbox("dead", "drop", ONE, "--reason", "r")
    assert (outcome.code, "was replayed" in outcome.err) == (4, True)


@pytest.mark.parametrize("verb", ["drain", "return", "quarantine", "rebuild", "retire"])
def test_a_decision_about_a_machine_carries_its_reason(origin: Origin, malbox: Malbox, verb: str) -> None:
    """The service hears it, and what it answers is said; without a reason nothing is asked."""
    content = {"machine_id": "linux-1", "state": "draining"}
    origin.answer("POST", f"/machines/linux-1/{verb}", as_json(content, 202))
    assert malbox("machine", verb, "linux-1").code == 2
    assert origin.requests == []
    told = malbox("machine", verb, "linux-1", "--reason", "new memory")
    assert (told.code, "draining" in told.err) == (0, True)
    assert json.loads(origin.requests[0].body) == {"reason": "new memory"}
    assert malbox("machine", verb, "linux-1", "--reason", "new memory", "--json").json == content


def test_a_machine_that_somebody_has_is_said_to_be_drained_later(origin: Origin, malbox: Malbox) -> None:
    """Its state alone would sound as if nothing had been heard."""
    content = {"machine_id": "linux-1", "state": "active", "is_drain_requested": True}
    origin.answer("POST", "/machines/linux-1/drain", as_json(content, 202))
    told = malbox("machine", "drain", "linux-1", "--reason", "new memory")
    assert "active, and is drained when nobody has it" in told.err


def test_a_refusal_about_a_machine_is_said_with_its_choices(origin: Origin, malbox: Malbox) -> None:
    """Exit status 4, the detail and what would be valid."""
    answers = (
        problem(409, "not_possible", "linux-1 is active"),
        problem(404, "unknown_machine", "There is no machine 'linux-1'.", allowed=["linux-2"]),
    )
    origin.answer("POST", "/machines/linux-1/rebuild", *answers)
    for words in ("linux-1 is active", "linux-2"):
        outcome = malbox("machine", "rebuild", "linux-1", "--reason", "r")
        assert (outcome.code, words in outcome.err) == (4, True)


def test_a_machines_history_says_who_decided_what_and_why(origin: Origin, malbox: Malbox) -> None:
    """An operator's word stands beside what happened by itself."""
    entry = {"at": "t", "event": "DrainRequested", "state": "active", "epoch": 7}
    page_of: dict[str, Any] = {
        "items": [{**entry, "details": {"by": "root", "reason": "new memory"}}, {**entry, "details": {}}]
    }
    page_of["next"] = 9
    origin.answer("GET", "/machines/linux-1/history", as_json(page_of))
    told = malbox("machine", "history", "linux-1", "--limit", "2", "--before", "11")
    assert origin.requests[0].query == {"limit": ["2"], "before": ["11"]}
    assert "--before 9" in told.err
    assert (told.code, "DrainRequested" in told.out, "new memory" in told.out) == (0, True, True)
    assert malbox("machine", "history", "linux-1", "--json").json == page_of


def test_the_name_of_a_machine_is_no_way_to_another_path(origin: Origin, malbox: Malbox) -> None:
    """A slash in it stays inside the name."""
    assert malbox("machine", "drain", "../dead/results", "--reason", "r").code == 4
    assert [each.path for each in origin.requests] == ["/api/v1/machines/..%2Fdead%2Fresults/drain"]


def projection(state: str | None, **more: Any) -> dict[str, Any]:
    """A projection's JSON, with its last rebuild."""
    last = {"state": state, "who": "root", "reason": "a column", "events_done": 3, "events_total": 9, "rows_changed": 2}
    return {
        "projection": "fleet",
        "tables": ["fleet"],
        "events_behind": 1,
        "rebuild": {**last, **more} if state else None,
    }


def with_projections(origin: Origin, *answers: dict[str, Any]) -> None:
    """Only machines has a projection, which changes from look to look."""
    for service in SERVICES:
        origin.answer("GET", f"/projections/{service}", as_json({"items": []}))
    origin.answer("GET", "/projections/machines", *(as_json({"items": [each]}) for each in answers))


def test_projections_are_listed_with_their_last_rebuild(origin: Origin, malbox: Malbox) -> None:
    """Who and why stand beside how far it is."""
    with_projections(origin, projection("running"))
    told = malbox("projections", "list")
    assert (told.code, "a column" in told.out, "3 of 9" in told.out) == (0, True, True)
    assert malbox("projections", "list", "--json").json["items"] == [{"service": "machines", **projection("running")}]


def test_a_rebuild_is_waited_for_and_its_end_is_the_exit_status(
    origin: Origin, malbox: Malbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done is 0 with what changed, failed is 1 with the fault; the reason went along."""
    monkeypatch.setattr("cli.commands.projections.LOOK_S", 0)
    path = "/projections/machines/fleet/rebuild"
    origin.answer("POST", path, as_json(projection("running"), 202))
    with_projections(origin, projection(None), projection("running"), projection("done"))
    told = malbox("projections", "rebuild", "fleet", "--reason", "a column")
    assert (told.code, "2 rows changed" in told.err) == (0, True)
    assert json.loads(origin.asked("POST", path)[0].body) == {"reason": "a column"}
    with_projections(origin, projection(None), projection("failed", error="ValueError: no"))
    told = malbox("projections", "rebuild", "fleet", "--reason", "a column")
    assert (told.code, "ValueError: no" in told.err) == (1, True)
    with_projections(origin, projection(None))
    told = malbox("projections", "rebuild", "fleet", "--reason", "a column", "--no-wait", "--json")
    assert (told.code, told.json) == (0, projection("running"))


def test_a_rebuild_of_nothing_is_wrong_usage(origin: Origin, malbox: Malbox) -> None:
    """The names that there are stand in the answer; without a reason nothing is asked."""
    with_projections(origin, projection(None))
    assert malbox("projections", "rebuild", "fleet").code == 2
    told = malbox("projections", "rebuild", "tasks", "--reason", "r")
    assert (told.code, "fleet" in told.err) == (2, True)
