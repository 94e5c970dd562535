"""What samples really do in a real guest is found by the rules, and ordinary programs stay benign."""

import json
from pathlib import Path

import pytest

from tests.acceptance import samples
from tests.acceptance.installation import Installation

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]


def test_what_a_sample_did_is_found_and_each_point_leads_to_the_line_of_the_trace(
    installation: Installation, tmp_path: Path
) -> None:
    """One harmless sample that does what thirty-odd rules ask for: all are found, and the points add up."""
    task = installation.submit(samples.write(tmp_path / "many.py", samples.BEHAVIOURS), "--timeout", "60")
    assert installation.wait(task) == "completed"
    report = installation.report(task)
    named = {reason["name"]: reason for reason in report["reasons"]}
    assert set() == samples.BEHAVIOURS_FOUND - named.keys()
    assert report["verdict"] == "malicious"
    assert sum(reason["points"] for reason in report["reasons"]) == report["score"] == 100
    trace = next(one["result_id"] for one in report["artifacts"] if one["name"] == "syscalls")
    lines = got(installation, trace, tmp_path / "trace").decode("latin-1").splitlines()
    signatures = json.loads(got(installation, named["cron_persistence"]["evidence"]["result_id"], tmp_path / "said"))
    for reason in named.values():
        if reason["evidence"]["plugin"] == "behaviour":
            _, _, match, _, number = reason["evidence"]["pointer"].split("/")
            place = signatures["matches"][int(match)]["evidence"][int(number)]
            assert signatures["matches"][int(match)]["rule"] == reason["name"]
            assert lines[place["line"] - 1].split()[0] == str(place["pid"])
    assert {"T1053.003", "T1059.004", "T1486", "T1620"} <= {technique["id"] for technique in report["techniques"]}


def test_ordinary_programs_are_benign(installation: Installation, tmp_path: Path) -> None:
    """A script that lists files has nothing said of what it did."""
    report = installation.analyse(samples.write(tmp_path / "ordinary.sh", samples.ORDINARY))
    assert (report["verdict"], report["score"], report["reasons"]) == ("benign", 0, [])


def got(installation: Installation, result_id: str, target: Path) -> bytes:
    """The bytes of a result."""
    said = installation.malbox("artifacts", "get", result_id, "--output", target)
    assert said.code == 0, said
    return target.read_bytes()
