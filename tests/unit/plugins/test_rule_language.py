"""A rule that is wrong is refused with its file, its name, the key and what to write instead."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malbox.sdk.rules import Fact, Matching, Prepared, Rule, RuleError, Vocabulary, read_rules
from malbox.sdk.rules.matching import TEXT_MAX_CHARS
from malbox.sdk.rules.states import EVIDENCE_MAX, KEYS_MAX

VOCABULARY: Vocabulary = {"file": {"action": str, "path": str, "mode": int, "own": bool}, "exec": {"path": str}}
HEAD = """
[[rule]]
id = "one"
title = "One"
description = "does one thing"
techniques = ["T1105"]
score = 10
hits = [["x"]]
misses = [["y"]]
"""
WHEN = 'when = { fact = "file", path = "^/etc/" }\n'


def read(tmp_path: Path, text: str) -> tuple[Rule, ...]:
    """The rules of a folder with this file."""
    (tmp_path / "some.toml").write_text(text, encoding="utf-8")
    return read_rules(tmp_path, VOCABULARY)


def prepared(tmp_path: Path, when: str) -> Prepared:
    """A rule with this condition."""
    return Prepared(read(tmp_path, HEAD + f"when = {when}\n"))


def found(rules: Prepared, *facts: Fact) -> list[dict[str, Any]]:
    """The matches of these facts."""
    matching = Matching(rules)
    for fact in facts:
        matching.feed(fact)
    matches: list[dict[str, Any]] = matching.result()["matches"]
    return matches


def file(path: str, action: str = "written", **others: Any) -> Fact:
    """Something done to a file."""
    return Fact("file", {"path": path, "action": action, **others}, {})


def run(path: str) -> Fact:
    """A program was started."""
    return Fact("exec", {"path": path}, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rule = 3", "a file has [[rule]] tables only"),
        ("[[rule]\n", "not TOML"),
        ("[[rule]]\n", "rule number 1: id: missing"),
        (HEAD, "rule one: when: missing"),
        (HEAD + WHEN + "scor = 5\n", "rule one: scor: unknown key; did you mean score?"),
        (HEAD.replace("T1105", "T11") + WHEN, "techniques: 'T11' is not an ATT&CK id; write T1234 or T1234.001"),
        (HEAD.replace("T1105", "T9999") + WHEN, "T9999 has no name here; add it to malbox/sdk/techniques.py"),
        (HEAD.replace("score = 10", "score = 0") + WHEN, "score: not a whole number from 1 to 100"),
        (HEAD.replace('"one"', '"One!"') + WHEN, "id: not an id; write small letters"),
        (HEAD.replace('[["x"]]', "[]") + WHEN, "hits: no example"),
        (HEAD.replace('[["y"]]', '["y"]') + WHEN, "misses: an example is a list"),
        (HEAD + WHEN + 'platforms = ["plan9"]\n', "platforms: 'plan9' is none; there are: linux, macos, windows"),
        (HEAD + 'when = { fact = "fil" }\n', "when.fact: 'fil' is none; there are: file, exec"),
        (HEAD + 'when = { fact = "file", pth = "x" }\n', "when.pth: unknown key; did you mean path?"),
        (HEAD + 'when = { fact = "file", path = "(a" }\n', "when.path: not a pattern of RE2"),
        (HEAD + 'when = { fact = "file", path = "a(?=b)" }\n', "it has no look-around"),
        (HEAD + 'when = { fact = "file", path = 5 }\n', "when.path: write a pattern"),
        (HEAD + 'when = { fact = "file", own = "yes" }\n', "when.own: write true or false"),
        (HEAD + 'when = { fact = "file", mode = "x" }\n', "when.mode: write a number"),
        (HEAD + 'when = { fact = "file", mode = { least = 1 } }\n', "when.mode.least: unknown key; did you mean"),
        (HEAD + "when = { }\n", "when: one of fact, any, all, none, sequence, count is to stand in it; 0 do"),
        (
            HEAD + 'when = { all = [{ fact = "exec" }, { none = [] }] }\n',
            "when.all[1].none: not a list of 1 to 64 conditions",
        ),
        (
            HEAD + 'when = { all = [{ fact = "exec" }, { none = [{ fact = "fil" }] }] }\n',
            "when.all[1].none[0].fact: 'fil'",
        ),
        (HEAD + 'when = { none = [{ fact = "exec" }] }\n', "when: met by facts that are not there, so a match has no"),
        (
            HEAD + 'when = { any = [{ fact = "exec" }, { none = [{ fact = "file" }] }] }\n',
            "when.any[1]: met by facts that are not there",
        ),
        (
            HEAD + 'when = { all = [{ none = [{ fact = "exec" }] }, { none = [{ fact = "file" }] }] }\n',
            "when.all[0]: met by facts that are not there, so a match has no evidence; put it into an all beside",
        ),
        (
            HEAD + 'when = { all = [{ fact = "exec" }, { none = [{ none = [{ fact = "file" }] }] }] }\n',
            "when.all[1].none: a none stands in it; write what that one excludes as it is",
        ),
        (HEAD + 'when = { any = [{ fact = "exec" }] }\n', "when.any: not a list of 2 to 64 conditions"),
        (
            HEAD + 'when = { count = { fact = "exec" }, at_least = 2, distinct = "mode" }\n',
            "when.distinct: a fact exec",
        ),
        (HEAD + 'when = { count = { fact = "exec" } }\n', "when.at_least: not a whole number"),
        (
            HEAD + 'when = { sequence = [{ fact = "file" }, { fact = "exec" }], same = "mode" }\n',
            "when.same: a fact exec has no field 'mode'; it has: path",
        ),
        (HEAD + WHEN + HEAD + WHEN, "id: some.toml has it too; give one another id"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_its_remedy(text: str, words: str, tmp_path: Path) -> None:
    """Nothing is guessed, and nothing is passed over."""
    with pytest.raises(RuleError) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith("some.toml: ")
    assert words in str(refused.value)


def test_a_rule_says_what_it_means_and_matches_what_it_asks(tmp_path: Path) -> None:
    """The match carries the rule, and the place of each fact as the plugin gave it."""
    rules = prepared(tmp_path, '{ fact = "file", path = "^/etc/", action = ["written", "created"] }')
    fact = Fact("file", {"path": "/etc/x", "action": "written"}, {"line": 7})
    [match] = found(rules, file("/tmp/x"), fact, file("/etc/y", "read"))
    assert (match["rule"], match["severity"], match["attack"]) == ("one", 10, ["T1105"])
    assert match["evidence"] == [{"sequence": 2, "fact": "file", "line": 7, "what": "path /etc/x; action written"}]


@pytest.mark.parametrize(
    ("when", "yes", "no"),
    [
        ('{ fact = "file", path = { not = "^/etc/" } }', [file("/tmp/a")], [file("/etc/a")]),
        ('{ fact = "file", mode = { at_least = 10, at_most = 20 } }', [file("a", mode=10)], [file("a", mode=21)]),
        ('{ fact = "file", mode = 5 }', [file("a", mode=5)], [file("a")]),
        ('{ fact = "file", own = false }', [file("a", own=False)], [file("a", own=True)]),
        (
            '{ all = [{ fact = "exec", path = "a" }, { fact = "exec", path = "b" }] }',
            [run("b"), run("a")],
            [run("a"), run("a")],
        ),
        (
            '{ sequence = [{ fact = "file" }, { fact = "exec" }], same = "path" }',
            [file("a"), file("b"), run("b")],
            [run("a"), file("a"), run("b")],
        ),
        (
            '{ count = { fact = "file" }, at_least = 2, distinct = "path" }',
            [file("a"), file("a"), file("b")],
            [file("a"), file("a")],
        ),
        (
            '{ all = [{ fact = "exec" }, { none = [{ fact = "file" }, { fact = "exec", path = "^b" }] }] }',
            [run("a")],
            [run("a"), run("b")],
        ),
        ('{ all = [{ none = [{ fact = "file" }] }, { fact = "exec" }] }', [run("a")], [run("a"), file("late")]),
        ('{ all = [{ none = [{ fact = "file" }] }, { fact = "exec" }] }', [run("a")], []),
        (
            '{ all = [{ fact = "exec" }, { any = [{ fact = "file" }, { none = [{ fact = "exec", path = "b" }] }] }] }',
            [run("a")],
            [run("a"), run("b")],
        ),
        (
            '{ all = [{ fact = "exec" }, { none = [{ count = { fact = "file" }, at_least = 2 }] }] }',
            [run("a"), file("a")],
            [run("a"), file("a"), file("b")],
        ),
        (
            '{ sequence = [{ fact = "file" }, { fact = "file" }], same = "path" }',
            [file("a"), file("a")],
            [file("a"), file("b")],
        ),
    ],
)
def test_each_condition_holds_for_what_it_asks_and_for_nothing_else(
    when: str, yes: list[Fact], no: list[Fact], tmp_path: Path
) -> None:
    """One fact is never two steps of a sequence, and equal values are counted once."""
    rules = prepared(tmp_path, when)
    assert found(rules, *yes)
    assert found(rules, *no) == []


def test_a_rule_for_another_platform_is_not_asked(tmp_path: Path) -> None:
    """A sample of an unknown platform is held against all."""
    rules = Prepared(read(tmp_path, HEAD + WHEN + 'platforms = ["windows"]\n'))
    for platform, count in (("linux", 0), ("windows", 1), (None, 1)):
        matching = Matching(rules, platform)
        matching.feed(file("/etc/x"))
        assert len(matching.result()["matches"]) == count


def test_a_bound_leaves_no_part_without_evidence(tmp_path: Path) -> None:
    """Of two parts, the one that is met a thousand times does not crowd out the other."""
    rules = prepared(tmp_path, '{ all = [{ fact = "file" }, { fact = "exec" }] }')
    [match] = found(rules, *(file(f"/{number}") for number in range(1000)), run("last"))
    assert len(match["evidence"]) == EVIDENCE_MAX
    assert match["evidence"][-1]["what"] == "path last"
    assert match["more"] == 1001 - EVIDENCE_MAX


@pytest.mark.promise("P30")
def test_what_a_sequence_remembers_is_bounded_and_the_cut_is_said(tmp_path: Path) -> None:
    """A sample that begins more sequences than are kept gets a result that says so."""
    matching = Matching(prepared(tmp_path, '{ sequence = [{ fact = "file" }, { fact = "exec" }], same = "path" }'))
    for number in range(KEYS_MAX + 1):
        matching.feed(file(f"/{number}"))
    assert matching.result()["is_truncated"] is True
    matching.feed(run(f"/{KEYS_MAX}"))
    assert matching.result()["matches"] == []


EXCLUDING = '{ all = [{ fact = "exec", path = "^a" }, { none = [{ fact = "file" }] }] }'


def test_what_is_excluded_is_no_evidence(tmp_path: Path) -> None:
    """A match rests on what was seen alone; what did not meet the excluded condition is not among it."""
    when = '{ all = [{ fact = "exec", path = "^a" }, { none = [{ count = { fact = "file" }, at_least = 3 }] }] }'
    [match] = found(prepared(tmp_path, when), file("x"), run("a"), file("y"))
    assert [one["what"] for one in match["evidence"]] == ["path a"]
    assert match["more"] == 0


@pytest.mark.promise("P30")
def test_what_may_have_been_missed_is_not_said_to_be_absent(tmp_path: Path) -> None:
    """A record with a gap has no match by absence, and says so; what was seen is matched all the same."""
    other = HEAD.replace('"one"', '"two"') + WHEN
    rules = Prepared(read(tmp_path, HEAD + f"when = {EXCLUDING}\n" + other))
    for facts, is_cut, names in (
        ([run("a")], False, ["one"]),
        ([run("a")], True, []),
        ([run("a"), file("/etc/x")], True, ["two"]),
        ([run("a"), run("b" * (TEXT_MAX_CHARS + 1))], None, []),
    ):
        matching = Matching(rules)
        for fact in facts:
            matching.feed(fact)
        if is_cut:
            matching.cut()
        result = matching.result()
        assert [match["rule"] for match in result["matches"]] == names
        assert result["is_truncated"] is (is_cut is not False)


@pytest.mark.promise("P30")
def test_a_sequence_that_a_bound_cut_is_not_said_to_be_absent(tmp_path: Path) -> None:
    """Too many beginnings to remember: whether one of them was ended is not known."""
    sequence = '{ sequence = [{ fact = "file" }, { fact = "file", action = ["read"] }], same = "path" }'
    matching = Matching(prepared(tmp_path, f'{{ all = [{{ fact = "exec" }}, {{ none = [{sequence}] }}] }}'))
    matching.feed(run("a"))
    for number in range(KEYS_MAX):
        matching.feed(file(f"/{number}"))
    assert len(matching.result()["matches"]) == 1
    matching.feed(file("/one too many"))
    assert matching.result()["matches"] == []
    assert matching.result()["is_truncated"] is True


@given(
    st.lists(st.tuples(st.sampled_from(["file", "exec", "odd"]), st.text(st.characters(), max_size=30)), max_size=30)
)
def test_no_text_makes_a_matching_raise(tmp_path_factory: pytest.TempPathFactory, facts: list[tuple[str, str]]) -> None:
    """Whatever stands in a field, and whatever kind a fact is of."""
    when = '{ any = [{ fact = "file", path = ".{0,20}b" }, { fact = "exec", path = { not = "c" } }] }'
    matching = Matching(prepared(tmp_path_factory.mktemp("rules"), when))
    for kind, text in facts:
        matching.feed(Fact(kind, {"path": text}, {}))
    assert matching.result()["facts"] == len(facts)
