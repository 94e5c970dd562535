"""Bad input gets a clear error that says what to do, and nothing is lost."""

import os
from pathlib import Path

import pytest

from tests.acceptance import samples
from tests.acceptance.installation import Installation

pytestmark = [pytest.mark.acceptance, pytest.mark.promise("A3"), pytest.mark.timeout(600)]
USAGE, REFUSED = 2, 4


def test_files_that_cannot_be_samples_are_refused_before_anything_is_sent(
    installation: Installation, tmp_path: Path
) -> None:
    """No file, an empty one, a directory, one of 5 GB: each with its own words."""
    huge = tmp_path / "huge"
    with huge.open("wb") as target:
        target.truncate(5 * 1024**3)
    for path, words in (
        (tmp_path / "missing", "no such file"),
        (samples.write(tmp_path / "empty", b""), "empty"),
        (tmp_path, "directory"),
        (huge, "limit"),
    ):
        said = installation.malbox("submit", path)
        assert said.code in (USAGE, REFUSED), (path, said)
        assert words in said.err.lower(), (path, said)


@pytest.mark.promise("A2", "P21")
@pytest.mark.parametrize(
    ("option", "value", "valid"),
    [
        ("--package", "nosuch", "elf"),
        ("--plugin", "nosuch", "identity"),
        ("--profile", "nosuch", "linux"),
        ("--machine", "nosuch", "linux-1"),
        ("--route", "internet", "none"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_valid_ones(
    installation: Installation, tmp_path: Path, option: str, value: str, valid: str
) -> None:
    """The refusal names what there is."""
    said = installation.malbox("submit", samples.write(tmp_path / "a.sh", "#!/bin/sh\n"), option, value)
    assert said.code in (USAGE, REFUSED), said
    assert valid in said.err, said


def test_a_wrong_archive_password_is_a_failed_task_that_says_so(installation: Installation, tmp_path: Path) -> None:
    """Not an empty success."""
    archive = samples.eicar_zip(tmp_path / "eicar.zip")
    task = installation.submit(archive, "--package", "archive", "--password", "wrong", "--archive-entry", "eicar.com")
    assert installation.wait(task) == "failed"
    assert "wrong archive password" in installation.task(task)["outcome_reason"]


def test_a_corrupted_elf_fails_in_the_guest_and_is_reported_as_such(installation: Installation, tmp_path: Path) -> None:
    """It is run; the guest's kernel refuses it; the report says that."""
    task = installation.submit(samples.corrupted_elf(tmp_path / "broken"))
    assert installation.wait(task) in ("completed", "failed")
    shown = installation.task(task)
    assert "exec" in str(shown["errors"]).lower(), shown["errors"]


@pytest.mark.promise("G5", "P49")
@pytest.mark.parametrize(
    "name", ["line\nbreak.sh", "quo\"te's.sh", "$(touch hacked);.sh", "..%2f..%2fetc.sh", "x" * 251 + ".sh"]
)
def test_hostile_file_names_are_only_names(installation: Installation, tmp_path: Path, name: str) -> None:
    """The sample runs; its name is shown safely and reaches no shell."""
    report = installation.analyse(samples.write(tmp_path / name, "#!/bin/sh\ntrue\n"))
    assert "\n" not in report["sample"]["name"]
    assert not any(entry["path"].endswith("hacked") for entry in report["files"])


def test_a_name_that_is_not_utf_8_is_accepted_and_shown_safely(installation: Installation, tmp_path: Path) -> None:
    """File names are bytes."""
    path = os.fsencode(tmp_path) + b"/\xff\xfe.sh"
    with open(path, "wb") as target:  # noqa: PTH123 - a Path cannot hold these bytes without escapes
        target.write(b"#!/bin/sh\ntrue\n")
    report = installation.analyse(Path(os.fsdecode(path)))
    assert report["sample"]["name"].isprintable()
