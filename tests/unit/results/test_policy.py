"""What counts, how much, and that every point can be explained."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.plugins.builtin.behaviour.plugin import RULES, observed
from services.results.assembly import assemble
from services.results.domain.inputs import SeenMatch
from services.results.domain.report import Evidence, Report
from services.results.policy import Matched, judge
from tests.unit.plugins.traced import lines_of
from tests.unit.results.cases import case

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
