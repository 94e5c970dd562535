"""What static plugins collect is bounded, printable, and said once."""

import contextlib
import json

import pytest

from malbox.sdk.cpu_budget import cpu_budget
from malbox.sdk.findings import INDICATORS_MAX, TRAITS_OF_A_NAME_MAX, Findings, host_of, printable, urls_in


def test_what_is_collected_is_said_once_and_in_order() -> None:
    """Repetition adds nothing."""
    findings = Findings()
    for _ in range(2):
        findings.trait("one", "here")
        findings.urls("see http://c2.example/a, and http://192.0.2.7/b.", "macro")
        findings.problem("broken")
    said = findings.as_json()
    assert said["traits"] == [{"name": "one", "detail": "here"}]
    assert [(one["kind"], one["value"]) for one in said["indicators"]] == [
        ("url", "http://c2.example/a"),
        ("domain", "c2.example"),
        ("url", "http://192.0.2.7/b"),
        ("ipv4", "192.0.2.7"),
    ]
    assert (said["problems"], said["is_truncated"]) == (["broken"], False)


def test_what_is_over_a_bound_is_dropped_and_said_to_be() -> None:
    """A hostile file cannot fill a report."""
    findings = Findings()
    for number in range(10_000):
        findings.trait("one", str(number))
        findings.indicator("path", str(number), "")
        findings.problem(str(number))
    said = findings.as_json()
    assert len(said["traits"]) == TRAITS_OF_A_NAME_MAX
    assert len(said["indicators"]) == INDICATORS_MAX
    assert len(said["problems"]) == 50
    assert said["is_truncated"]


@pytest.mark.promise("P49")
def test_text_for_a_reader_turns_nothing_around() -> None:
    """Control characters, direction marks and lone surrogates do not pass, and the result is JSON in UTF-8."""
    shown = printable("a\x1b[31m\u202egpj\ud800\n" + "x" * 1000, 20)
    assert shown == "a\ufffd[31m\ufffdgpj\ufffd\ufffd" + "x" * 8
    assert json.dumps(shown).encode()
    assert printable(b"\xff\x00a") == "\ufffd\ufffda"


def test_a_list_of_the_plugins_own_is_bounded_and_said_to_be_cut() -> None:
    """What finds no room is left out; a list that is full to the last place is whole."""
    findings, entries = Findings(), ["one"]
    findings.add_to(entries, 2, "two")
    assert (entries, findings.as_json()["is_truncated"]) == (["one", "two"], False)
    findings.add_to(entries, 2, "three")
    assert (entries, findings.as_json()["is_truncated"]) == (["one", "two"], True)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://C2.Example./a", ("domain", "c2.example")),
        ("http://user:x@c2.example:81/", ("domain", "c2.example")),
        ("http://[2001:db8::1]/", ("ipv6", "2001:db8::1")),
        ("http://localhost/", ("", "")),
        ("http://[nonsense/", ("", "")),
    ],
)
def test_the_host_of_a_url_is_named_by_its_kind(url: str, host: tuple[str, str]) -> None:
    """And what is no host is none."""
    assert host_of(url) == host


def test_urls_end_where_the_sentence_goes_on() -> None:
    """Quotes, brackets and full stops are not part of them."""
    assert urls_in('"http://a.example/x" (https://b.example/y).') == ("http://a.example/x", "https://b.example/y")


def test_work_ends_when_its_processor_time_is_used_up() -> None:
    """What comes after the block runs, even when the work catches everything; other work is left alone."""

    def never_ends() -> None:
        while True:
            with contextlib.suppress(Exception):  # as a parsing library would
                sum(range(1000))

    with cpu_budget(0.05) as spent:
        never_ends()
    assert spent.is_spent
    with cpu_budget(60) as rested:
        sum(range(1000))
    assert not rested.is_spent
