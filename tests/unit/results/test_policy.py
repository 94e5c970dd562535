"""What counts, how much, and that every point can be explained."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.plugins.builtin.behaviour.plugin import RULES, observed
from services.results.assembly import assemble
from services.results.domain.bounds import REASONS_SHOWN_MAX
from services.results.domain.case import evidence
from services.results.domain.inputs import SeenMatch
from services.results.domain.report import Evidence, Report
from services.results.policy import Matched, judge
from tests.unit.plugins.traced import lines_of
from tests.unit.results.cases import case, result

RESULT = "res_" + "0" * 32
QUIET = ("$ ls -l", "$ cat notes.txt", "write /home/sample/notes.txt", "write /tmp/scratch", "delete /tmp/scratch")


def matched(severity: int, rule: str = "rule") -> Matched:
    """A rule that matched."""
    return Matched(
        SeenMatch(rule=rule, severity=severity, attack=["T1105", "nonsense"]),
        (Evidence(plugin="yara", result_id=RESULT, pointer="/matches/0"),),
    )


def run_of(*lines: Any) -> tuple[dict[str, Any], Report]:
    """What the rules say of a run, and the report of it."""
    behaviour, signatures = observed(lines_of(lines), RULES)
    documents = {"behaviour": behaviour.result(), "behaviour/signatures": signatures}
    return signatures, assemble(case(documents))


def test_a_rule_of_full_severity_makes_a_sample_malicious() -> None:
    """EICAR needs no machine to be called what it is."""
    judgement = judge([matched(100, "eicar")], has_run=False)
    assert (judgement.verdict, judgement.score) == ("malicious", 100)
    assert judgement.reasons[0].techniques == ("T1105",)


def test_nothing_run_and_nothing_found_is_unknown() -> None:
    """Silence is not innocence."""
    assert judge([], has_run=False).verdict == "unknown"


def test_a_faint_hint_without_a_run_is_still_unknown() -> None:
    """A packed file that was never seen running is not called benign."""
    assert judge([matched(10)], has_run=False).verdict == "unknown"


def test_a_quiet_run_is_benign_and_a_persistent_one_is_not() -> None:
    """The verdict follows what was seen."""
    assert run_of(*QUIET)[1].verdict == "benign"
    assert run_of("write /etc/cron.d/x")[1].verdict == "suspicious"
    assert run_of("write /etc/cron.d/x", "write /etc/ld.so.preload")[1].verdict == "malicious"


def test_each_point_names_its_rule_and_leads_to_the_line_of_the_trace() -> None:
    """A reason points to each piece of evidence of the match, and that to the line that strace wrote."""
    lines = ("$ id", "write /etc/cron.d/x", "connect 192.0.2.1 6667")
    signatures, report = run_of(*lines)
    assert sum(reason.points for reason in report.reasons) == report.score
    assert {reason.name for reason in report.reasons} >= {"cron_persistence", "unusual_port", "system_discovery"}
    trace = list(lines_of(lines))
    for reason in report.reasons:
        for one in (reason.evidence, *reason.more_evidence):
            at = _at(signatures, one.pointer)
            assert (one.plugin, trace[at["line"] - 1].split()[0]) == ("behaviour", str(at["pid"]))
    cron = next(reason for reason in report.reasons if reason.name == "cron_persistence")
    assert "/etc/cron.d/x" in trace[_at(signatures, cron.evidence.pointer)["line"] - 1]


def test_the_techniques_and_the_matches_of_a_run_are_in_the_report() -> None:
    """Each technique has its name and the rules that point to it."""
    _, report = run_of("write /etc/cron.d/x")
    assert [(one.id, one.name, one.sources) for one in report.techniques] == [
        ("T1053.003", "Cron", ("cron_persistence",))
    ]
    [match] = report.matches
    assert (match.rule, match.strings) == ("cron_persistence", 2)


def test_what_a_bound_kept_from_the_rules_is_said_in_the_report() -> None:
    """A result that its plugin cut is named."""
    document = {"behaviour": {}, "behaviour/signatures": {"matches": [], "is_truncated": True}}
    assert assemble(case(document)).truncated.at_source == ("behaviour/signatures",)


def test_rules_of_any_plugin_on_the_host_count_and_name_their_evidence() -> None:
    """What its author wrote it counts, once however many attempts said it; a guest's plugin has no word in this."""
    mine = {"rule": "mine", "description": "as my rule says", "severity": 40, "evidence": [{"fact": "x"}]}
    seen = case({"ours": {"matches": [mine]}, "ours/more": {"matches": [{"rule": "shown_only"}]}})
    later = replace(result(9, "ours"), attempt=2)
    lying = replace(result(10, "inside"), stage="guest")
    seen.contents[later.result_id] = seen.contents[lying.result_id] = seen.contents[seen.results[0].result_id]
    report = assemble(replace(seen, results=(*seen.results, later, lying)))
    assert [(one.name, one.points, one.why) for one in report.reasons] == [("mine", 40, "as my rule says")]
    assert report.reasons[0].evidence == evidence(later, "/matches/0/evidence/0")
    assert {one.rule for one in report.matches} == {"mine", "shown_only"}
    assert (report.score, report.verdict, report.errors) == (40, "suspicious", ())


@pytest.mark.parametrize("content", [[{"matches": 3}], {"words": ["matches"]}, {"count": {"matches": 3}}])
def test_a_word_that_only_stands_in_a_result_is_no_match(content: Any) -> None:
    """The key counts at the top of an object, where the documents say it does."""
    report = assemble(case({"ours": content}))
    assert (report.matches, report.errors, report.truncated.at_source) == ((), (), ())


def test_matches_that_do_not_fit_are_an_error_that_names_the_place() -> None:
    """Neither counted nor silent."""
    report = assemble(case({"ours": {"matches": [{"rule": "mine", "severity": 101}]}}))
    assert [error.outcome for error in report.errors] == ["unreadable"]
    assert "/matches/0/severity" in report.errors[0].reason
    assert report.score == 0


def test_reasons_that_are_left_out_are_counted_and_have_no_points() -> None:
    """A plugin's thousands of rules make neither a score nor a report without an end."""
    many = [{"rule": f"r{number}", "severity": 1} for number in range(REASONS_SHOWN_MAX + 7)]
    report = assemble(case({"ours": {"matches": many}}))
    assert (len(report.reasons), report.truncated.reasons, report.score) == (REASONS_SHOWN_MAX, 7, 100)
    assert sum(one.points for one in report.reasons) == 100


def _at(document: Any, pointer: str) -> Any:
    """What a JSON pointer points to."""
    for part in pointer.split("/")[1:]:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


severities = st.lists(st.integers(0, 100), max_size=12)
examples = st.sampled_from([QUIET, *(example for rule in RULES.rules for example in rule.hits)])


@given(examples)
def test_the_points_of_all_reasons_of_a_run_add_up_to_the_score(example: tuple[Any, ...]) -> None:
    """Every point has a reason, every reason its evidence, and the score ends at 100."""
    _, report = run_of(*example)
    assert sum(reason.points for reason in report.reasons) == report.score <= 100
    assert all(reason.points <= reason.weight for reason in report.reasons)
    assert all(reason.evidence.pointer.startswith("/matches/") for reason in report.reasons)


@given(severities, st.integers(0, 100))
def test_more_evidence_never_makes_a_sample_look_better(found: list[int], one: int) -> None:
    """The score grows with the evidence, or stays, and is the sum of the reasons."""
    before = judge([matched(severity) for severity in found], has_run=True)
    after = judge([matched(severity) for severity in [*found, one]], has_run=True)
    assert after.score >= before.score
    assert sum(reason.points for reason in after.reasons) == after.score <= 100
