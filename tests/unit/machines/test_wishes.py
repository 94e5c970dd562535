"""The operator's file of machines is read again as it changes, and never half."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from services.machines.reconcile import Wishes
from services.machines.settings import load_machines

PROFILE = '[profile.linux]\nplatform = "linux"\nimage = "linux"\nmemory_mib = 512\n'
MACHINE = '[[machine]]\nid = "{}"\nprofile = "linux"\n'


class File:
    """A file of machines, as old as the test says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, text: str, *, age_s: float = 60.0) -> None:
        """That is in it, since so long."""
        self.path.write_text(text, encoding="utf-8")
        at = time.time() - age_s
        os.utime(self.path, (at, at))


@pytest.fixture
def file(tmp_path: Path) -> File:
    """One machine is wanted."""
    one = File(tmp_path / "fleet.toml")
    one.say(PROFILE + MACHINE.format("one"))
    return one


@pytest.fixture
def wishes(file: File) -> Wishes:
    """What was read of it."""
    read = Wishes(file.path, partial(load_machines, host="local"))
    assert read.refresh()
    return read


def test_a_changed_file_counts_as_soon_as_it_is_read_again(file: File, wishes: Wishes) -> None:
    """The control of what follows."""
    file.say(PROFILE.replace("512", "1024") + MACHINE.format("one") + MACHINE.format("two"))
    assert wishes.refresh()
    assert {name: spec.memory_mib for name, spec in wishes.specs.items()} == {"one": 1024, "two": 1024}


@pytest.mark.promise("G9")
@pytest.mark.parametrize(
    "text",
    [
        PROFILE + "[[machine]]\nid = ",
        PROFILE + '[[machine]]\nid = "one"\nprofile = "missing"\n',
        PROFILE + '[[machine]]\nid = "one"\nprofile = "linux"\nmemory_mib = 1\n',
        PROFILE + MACHINE.format("one") + MACHINE.format("one"),
        "",
        "\x00" * 100,
    ],
    ids=["cut short", "unknown profile", "out of range", "named twice", "empty", "zeros"],
)
def test_a_broken_file_is_refused_and_shown_and_the_last_good_one_stays(file: File, wishes: Wishes, text: str) -> None:
    """Until it is good again."""
    before = dict(wishes.specs)
    file.say(text)
    wishes.refresh()
    assert wishes.specs == before
    assert str(file.path) in wishes.fault or "profile" in wishes.fault
    file.say(PROFILE + MACHINE.format("one"))
    wishes.refresh()
    assert wishes.fault == ""


@pytest.mark.promise("G9")
def test_a_file_that_is_gone_or_just_being_written_changes_nothing(file: File, wishes: Wishes) -> None:
    """What is written now may be half of it."""
    before = dict(wishes.specs)
    file.say(PROFILE, age_s=0.0)
    assert not wishes.refresh()
    assert wishes.specs == before
    file.path.unlink()
    wishes.refresh()
    assert wishes.specs == before
    assert "fleet.toml" in wishes.fault
