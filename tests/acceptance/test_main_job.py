"""A file goes in, an explained report comes out: through the command line, into a real guest, and clean again."""

import hashlib
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import samples
from tests.acceptance.installation import Installation

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


def paths_written(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The files that the report says were written, by path."""
    return {entry["path"]: entry for entry in report["files"]}


@pytest.mark.promise("E1", "P31", "D1")
def test_a_shell_script_is_explained_with_its_tree_files_and_denied_attempts(
    installation: Installation, tmp_path: Path
) -> None:
    """The tree, the dropped file with the same bytes, the attempt at the network, in the report and in its text."""
    task = installation.submit(samples.write(tmp_path / "demo.sh", samples.DEMO), "--timeout", "20")
    assert installation.wait(task) == "completed"
    report = installation.report(task)
    assert report["ended_by"] == "sample_exit"
    commands = [" ".join(process["argv"]) for process in report["processes"]]
    assert any("demo.sh" in command for command in commands), commands
    assert any("wget" in command for command in commands), commands
    dropped = paths_written(report)["/tmp/dropped.txt"]
    target = tmp_path / "got.txt"
    said = installation.malbox("artifacts", "get", dropped["result_id"], "--output", target)
    assert said.code == 0, said
    assert target.read_bytes() == samples.DROPPED.encode()
    assert not target.stat().st_mode & stat.S_IXUSR
    attempt = next(one for one in report["network"] if one["address"] == "192.0.2.10")
    assert (attempt["port"], attempt["outcome"]) == (80, "ENETUNREACH")
    text = installation.malbox("report", task).out
    for word in ("demo.sh", "/tmp/dropped.txt", "192.0.2.10", "ENETUNREACH"):
        assert word in text


@pytest.mark.promise("P8", "P24")
def test_what_one_sample_leaves_behind_is_not_there_for_the_next(installation: Installation, tmp_path: Path) -> None:
    """The same sample twice: the second run finds nothing of the first, though each wrote its canary."""
    sample = samples.write(tmp_path / "demo.sh", samples.DEMO)
    for _ in range(2):
        files = paths_written(installation.analyse(sample))
        assert samples.CANARY in files
        assert "/tmp/not-clean" not in files
    installation.wait_until_ready()


def test_an_elf_of_debians_runs_with_its_arguments(installation: Installation, tmp_path: Path) -> None:
    """Arguments reach the program as they are; the sample is not root."""
    sample = samples.debian_elf(tmp_path / "program")
    report = installation.analyse(sample, "--argument=-u", "--argument=-n")
    first = report["processes"][0]
    assert first["argv"][1:] == ["-u", "-n"]
    assert first["exit_code"] == 0
    assert report["sample"]["package"] == "elf"


def test_a_python_script_runs_and_its_child_is_seen(installation: Installation, tmp_path: Path) -> None:
    """The interpreter is chosen by content; the dropped bytes are the script's."""
    report = installation.analyse(samples.write(tmp_path / "script", samples.PYTHON))
    dropped = paths_written(report)["/tmp/from-python.bin"]
    assert dropped["sha256"] == hashlib.sha256(bytes(range(256))).hexdigest()
    assert any(process["argv"][:1] == ["/bin/echo"] for process in report["processes"])
    assert any(one["address"] == "192.0.2.20" and one["port"] == 4444 for one in report["network"])


@pytest.mark.promise("A2")
def test_the_eicar_string_in_a_password_zip_is_malicious(installation: Installation, tmp_path: Path) -> None:
    """Unpacked in the sandbox with the password and the entry asked for; the rule that matched is named."""
    archive = samples.eicar_zip(tmp_path / "eicar.zip")
    report = installation.analyse(
        archive, "--package", "archive", "--password", samples.ZIP_PASSWORD, "--archive-entry", "eicar.com"
    )
    assert report["verdict"] == "malicious"
    assert any("EICAR" in reason["why"].upper() for reason in report["reasons"])


@pytest.mark.promise("B1a", "G1")
def test_a_running_task_can_be_cancelled_and_its_machine_comes_back(installation: Installation, tmp_path: Path) -> None:
    """Cancelling ends that task, with the machine clean; the next one runs."""
    sample = samples.write(tmp_path / "long.sh", "#!/bin/sh\nsleep 100\n")
    task = installation.submit(sample, "--timeout", "120")
    installation.wait(task, ("running",))
    assert installation.malbox("task", "cancel", task).code == 0
    assert installation.wait(task) == "cancelled"
    assert installation.task(task)["machine"] in ("clean", "none")
    installation.wait_until_ready()
    assert installation.analyse(samples.write(tmp_path / "next.sh", "#!/bin/sh\ntrue\n"))


@pytest.mark.promise("A4", "C5")
def test_observation_ends_at_the_window_that_was_asked_for(installation: Installation, tmp_path: Path) -> None:
    """A sample that sleeps on is watched for its window, and the rule is recorded."""
    sample = samples.write(tmp_path / "long.sh", "#!/bin/sh\nsleep 100\n")
    report = installation.analyse(sample, "--timeout", "3")
    assert report["ended_by"] in ("window", "timeout")


def test_the_audit_record_replays_what_happened(installation: Installation, tmp_path: Path) -> None:
    """Every fact of a task is in the stream, in order, each a CloudEvent."""
    task = installation.submit(samples.write(tmp_path / "a.sh", "#!/bin/sh\ntrue # replay\n"))
    assert installation.wait(task) == "completed"
    said = installation.malbox("events", "replay", "--json")
    assert said.code == 0, said
    events = [line for line in said.out.splitlines() if task in line]
    types = [
        kind
        for line in events
        for kind in ("task.submitted", "task.started", "report.ready", "task.completed")
        if f"malbox.{kind}.v1" in line
    ]
    assert types == ["task.submitted", "task.started", "report.ready", "task.completed"]


@pytest.mark.promise("P15", "D1")
def test_what_an_archive_holds_is_analysed_as_samples_of_the_same_submission(
    installation: Installation, tmp_path: Path
) -> None:
    """Two scripts, a nested archive and a duplicate: three tasks more, and the archive is what its worst file is."""
    said = installation.malbox("submit", samples.several(tmp_path / "several.zip"), "--json", "--timeout", "10")
    assert said.code == 0, said
    root = said.json()["tasks"][0]["task_id"]
    assert installation.wait(root) == "completed"
    assert [stage["state"] for stage in installation.task(root)["stages"] if stage["name"] == "guest"] == ["skipped"]
    judged = installation.wait_for_children(root)
    children = {child["name"]: child for child in judged["children"]}
    assert set(children) == {"first.sh", "bin/second.sh", "inner.py", "readme.txt"}
    assert (children["readme.txt"]["task_id"], children["readme.txt"]["reason"]) == (
        None,
        "no program, script, document or archive: text/plain",
    )
    for name in ("first.sh", "bin/second.sh", "inner.py"):
        task = children[name]["task_id"]
        assert installation.wait(task) == "completed"
        shown = installation.task(task)
        assert (shown["submission_id"], shown["parent"]["task_id"]) == (said.json()["submission_id"], root)
        assert any("second" in " ".join(one["argv"]) for one in installation.report(task)["processes"]) == (
            name == "bin/second.sh"
        )
    assert (children["first.sh"]["verdict"], judged["verdict"]) == ("malicious", "malicious")
    assert any(reason["why"].startswith("contains first.sh") for reason in judged["reasons"])
    assert "Found inside" in installation.malbox("report", root).out
    assert installation.malbox("task", "show", children["inner.py"]["task_id"]).out.count(root) == 1
