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
