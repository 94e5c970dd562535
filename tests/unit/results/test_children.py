"""What was found inside a sample is evidence against it, however late it is judged."""

import json
from typing import Any

import pytest

from services.results.assembly import assemble
from services.results.assembly.inside import with_children
from services.results.domain.bounds import EVIDENCE_MAX
from services.results.domain.case import Case
from services.results.domain.report import Child, Report
from tests.unit.results.cases import SEALED_AT, result, seal


def child(number: int, verdict: str | None = None, **changes: Any) -> Child:
    """A file found inside."""
    fields: dict[str, Any] = {
        "name": f"{number}.sh",
        "plugin": "archives",
        "result_id": f"res_{number:032x}",
        "sha256": f"{number:064x}",
        "task_id": f"tsk_{number:032x}",
        "verdict": verdict,
        "score": None if verdict is None else 80,
    }
    return Child.model_validate({**fields, **changes})


def report(severity: int = 0) -> Report:
    """A sealed report, with one match of that severity if there is any."""
    yara = result(9, "yara")
    content = json.dumps({"matches": [{"rule": "rule", "severity": severity}] if severity else []}).encode()
    return assemble(Case(seal(), SEALED_AT, (yara,), {yara.result_id: content}))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("malicious",), "malicious"),
        (("suspicious", "benign"), "suspicious"),
        (("benign", "unknown", None), "unknown"),
        (("suspicious",) * 5, "suspicious"),
        ((), "unknown"),
    ],
)
def test_a_sample_is_no_less_than_what_is_inside(verdicts: tuple[str | None, ...], expected: str) -> None:
    """Each verdict counts once, whatever the number of files that have it."""
    children = [child(number, verdict) for number, verdict in enumerate(verdicts, start=1)]
    assert with_children(report(), children, left_out=0).verdict == expected


def test_the_reason_names_the_files_and_points_to_their_bytes() -> None:
    """The points of all reasons add up to the score."""
    children = [child(number, "malicious") for number in range(1, 6)]
    judged = with_children(report(severity=50), children, left_out=2)
    [reason] = [one for one in judged.reasons if one.name == "contains_malicious_file"]
    assert reason.why == "contains 1.sh, 2.sh, 3.sh and 2 more, which are malicious"
    assert [place.result_id for place in (reason.evidence, *reason.more_evidence)] == [
        one.result_id for one in children
    ]
    assert (judged.score, sum(one.points for one in judged.reasons), judged.children_left_out) == (100, 100, 2)
    assert reason.evidence_left_out == 0
    many = [child(number, "malicious") for number in range(1, EVIDENCE_MAX + 4)]
    [reason] = with_children(report(), many, left_out=0).reasons
    assert (1 + len(reason.more_evidence), reason.evidence_left_out) == (EVIDENCE_MAX, 3)


@pytest.mark.promise("P15")
def test_a_report_that_is_looked_at_again_and_again_ends_where_the_children_are() -> None:
    """Children are judged one by one; the last look is what one look at all of them would have been."""
    first = with_children(report(severity=20), [child(1), child(2)], left_out=0)
    then = with_children(first, [child(1, "suspicious"), child(2)], left_out=0)
    last = with_children(then, [child(1, "suspicious"), child(2, "malicious")], left_out=0)
    assert last == with_children(report(severity=20), last.children, left_out=0)
    assert with_children(last, last.children, left_out=0) == last
    assert [first.verdict, then.verdict, last.verdict] == ["unknown", "suspicious", "malicious"]


def test_a_report_with_children_is_read_as_it_was_written() -> None:
    """Revisions are made from what is stored; so is one from before there were children."""
    written = with_children(report(), [child(1, "malicious"), child(2, None, task_id=None, reason="text")], left_out=0)
    assert Report.model_validate_json(written.to_json()) == written
    old = {name: value for name, value in json.loads(report().to_json()).items() if not name.startswith("children")}
    assert Report.model_validate(old).children == ()
