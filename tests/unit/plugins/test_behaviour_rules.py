"""Each behaviour rule finds its examples and leaves its near misses alone, through the whole reading of a trace."""

from pathlib import Path
from typing import Any

import pytest

from malbox.sdk.rules import Prepared, Rule, read_rules
from services.plugins.builtin.behaviour import plugin
from services.plugins.builtin.behaviour.facts import VOCABULARY, scope_of
from services.plugins.builtin.behaviour.plugin import RULES, observed
from services.plugins.builtin.behaviour.strace import read_lines
from tests.acceptance.samples import BEHAVIOURS_FOUND
from tests.unit.plugins.rule_examples import hits, misses
from tests.unit.plugins.traced import lines_of

TRACE = Path(__file__).parents[1] / "guest" / "traces" / "behaviours.strace"
"""Recorded of `tests.acceptance.samples.BEHAVIOURS`, with what the guest's tracer asks strace 6.1 for."""
QUIET = (
    "$ ls -l /home/sample",
    "$ cat notes.txt",
    "read /home/sample/notes.txt",
    "write /home/sample/notes.txt",
    "write /tmp/scratch",
    "delete /tmp/scratch",
    "read /etc/passwd",
    "connect 127.0.0.1 6667",
    "nanosleep({tv_sec=1, tv_nsec=0}, NULL) = 0",
)


def matches(rule: Rule, example: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What the rule finds in the example, among all the others."""
    found = observed(lines_of(example), RULES)[1]["matches"]
    return [match for match in found if match["rule"] == rule.id]


@pytest.mark.parametrize(("rule", "example"), hits(RULES.rules))
def test_the_rule_finds_its_example_and_names_the_lines(rule: Rule, example: tuple[Any, ...]) -> None:
    """The match carries the rule's meaning; each piece of evidence is a line of the trace and says what it is."""
    [match] = matches(rule, example)
    assert (match["rule"], match["severity"], match["attack"]) == (rule.id, rule.score, list(rule.techniques))
    lines = [one["line"] for one in match["evidence"]]
    assert lines == sorted(lines)
    assert 1 < lines[0] <= lines[-1] <= len(list(lines_of(example)))
    assert all(one["pid"] and one["what"] for one in match["evidence"])


@pytest.mark.parametrize(("rule", "example"), misses(RULES.rules))
def test_the_rule_leaves_its_near_miss_alone(rule: Rule, example: tuple[Any, ...]) -> None:
    """What only looks alike is not found."""
    assert matches(rule, example) == []


def test_a_quiet_program_is_left_alone() -> None:
    """A script that lists and copies files is nothing remarkable."""
    assert observed(lines_of(QUIET), RULES)[1]["matches"] == []


def test_what_strace_really_wrote_of_a_sample_is_found_by_each_rule_that_it_is_an_example_of() -> None:
    """A harmless script does what thirty-odd rules ask for, and nothing that others do; each line says so."""
    with TRACE.open("rb") as trace:
        lines = list(read_lines(trace))
    found = observed(lines, RULES)[1]["matches"]
    assert {match["rule"] for match in found} == BEHAVIOURS_FOUND
    for match in found:
        assert all(lines[one["line"] - 1].split()[0] == str(one["pid"]) for one in match["evidence"])


def test_there_are_rules_for_every_part_of_an_attack() -> None:
    """At least forty, with techniques, and no two that say the same."""
    assert len(RULES.rules) >= 40
    assert all(rule.techniques for rule in RULES.rules)
    assert len({rule.description for rule in RULES.rules}) == len(RULES.rules)


@pytest.mark.promise("P30")
def test_a_flood_of_text_does_not_blind_the_rules() -> None:
    """What the record has no room for any more is still a fact."""
    flood = [f"1500x write /tmp/{'x' * 1010}{{n}}", "$ crontab -"]
    behaviour, signatures = observed(lines_of(flood), RULES)
    assert behaviour.result()["is_truncated"] is True
    assert "crontab_command" in {match["rule"] for match in signatures["matches"]}


QUIETLY = """
[[rule]]
id = "lists_quietly"
title = "Lists"
description = "lists a directory and reaches nobody"
techniques = ["T1083"]
score = 10
when = { all = [{ fact = "exec", name = ["ls"] }, { none = [{ fact = "connect" }] }] }
hits = [["$ ls"]]
misses = [["$ ls", "connect 127.0.0.1 80"]]
"""


@pytest.mark.promise("P30")
def test_what_a_program_did_not_do_is_known_from_a_whole_trace_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace that is less than there was, or longer than what is read of one, proves no absence, and says so."""
    (tmp_path / "quiet.toml").write_text(QUIETLY, encoding="utf-8")
    rules = Prepared(read_rules(tmp_path, VOCABULARY))
    [rule] = rules.rules
    for example, is_whole, count in ((rule.hits[0], True, 1), (rule.misses[0], True, 0), (rule.hits[0], False, 0)):
        signatures = observed(lines_of(example), rules, is_whole=is_whole)[1]
        assert (len(signatures["matches"]), signatures["is_truncated"]) == (count, not is_whole)
    monkeypatch.setattr(plugin, "LINES_MAX", len(list(lines_of(rule.hits[0]))))
    signatures = observed(lines_of(rule.hits[0]), rules)[1]
    assert (signatures["matches"], signatures["is_truncated"]) == ([], True)


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("127.0.0.1", "this"),
        ("::ffff:127.0.0.1", "this"),
        ("0.0.0.0", "this"),  # noqa: S104 - an address, nothing listens
        ("10.0.0.1", "private"),
        ("fe80::1", "private"),
        ("192.0.2.1", "global"),
        ("9.9.9.9", "global"),
        ("nowhere", ""),
    ],
)
def test_how_far_away_an_address_is(address: str, scope: str) -> None:
    """An address of the guest itself is one however it is written; those for documents stand for any elsewhere."""
    assert scope_of(address) == scope


def test_a_flood_of_what_matches_gives_bounded_evidence_that_says_how_much_more_there_was() -> None:
    """Ten places are named, the rest are counted."""
    _, signatures = observed(lines_of(["500x write /etc/cron.d/{n}"]), RULES)
    [match] = [one for one in signatures["matches"] if one["rule"] == "cron_persistence"]
    assert len(match["evidence"]) == 10
    assert match["more"] == 2 * 500 - 10  # each is created and written
