"""The operator's file of machines is read again as it changes, and never half."""

import os
import re
import time
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.chassis.settings import ServiceSettings, SettingsRefused, load_settings
from services.machines.network.allowance import Allowance
from services.machines.network.settings import load_egress
from services.machines.network.settings import load_settings as load_helper_settings
from services.machines.network.words import NetworkFault
from services.machines.reconcile import Wishes
from services.machines.reconcile.wishes import NAMES_LOGGED_MAX
from services.machines.settings import load_machines

PROFILE = '[profile.linux]\nplatform = "linux"\nimage = "linux"\nmemory_mib = 512\n'
MACHINE = '[[machine]]\nid = "{}"\nprofile = "linux"\n'


class File:
    """A file of machines, as old as the test says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, content: str | bytes, *, age_s: float = 60.0) -> None:
        """That is in it, since so long."""
        self.path.write_bytes(content.encode() if isinstance(content, str) else content)
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


def test_machines_that_left_the_file_are_named_up_to_a_bound_and_counted_beyond(file: File, wishes: Wishes) -> None:
    """In the log, where an operator looks for them."""
    file.say(PROFILE + "".join(MACHINE.format(f"m{number:02}") for number in range(NAMES_LOGGED_MAX + 3)))
    assert wishes.refresh()
    file.say(PROFILE + MACHINE.format("one"))
    with capture_logs() as logged:
        assert wishes.refresh()
    [line] = [line for line in logged if line["event"] == "machines_left_the_file"]
    assert (len(line["machines"]), line["more"]) == (NAMES_LOGGED_MAX, 3)


def test_a_changed_file_counts_as_soon_as_it_is_read_again(file: File, wishes: Wishes) -> None:
    """The control of what follows."""
    file.say(PROFILE.replace("512", "1024") + MACHINE.format("one") + MACHINE.format("two"))
    assert wishes.refresh()
    assert {name: spec.memory_mib for name, spec in wishes.specs.items()} == {"one": 1024, "two": 1024}


@pytest.mark.promise("G9")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PROFILE + "[[machine]]\nid = ", ["not TOML", "end of document"]),
        (PROFILE + '[[machine]]\nid = "one"\nprofile = "missing"\n', ["machine one", "'missing'", "linux"]),
        (PROFILE + MACHINE.format("one") + "memory_mib = 1\n", ["machine one: memory_mib", "256"]),
        (PROFILE.replace("512", "1") + MACHINE.format("one"), ["machine one: memory_mib", "256"]),
        (PROFILE + MACHINE.format("one") + "memory = 1\n", ["machine one: memory:", "not permitted"]),
        (PROFILE + MACHINE.format("one") + MACHINE.format("one"), ["named twice: one"]),
        (PROFILE + MACHINE.format("one") + '[[machine]]\nid = "two"\n', ["machine two: profile", "required"]),
        (PROFILE + '[[machine]]\nprofile = "linux"\n', ["machine number 1: id", "required"]),
        (PROFILE + MACHINE.format("a b"), ["machine a b: id", "pattern"]),
        (PROFILE + MACHINE.format("one") + 'host = "other"\n', ["machine one: host", "its entry", "take the line out"]),
        (PROFILE + 'host = "h"\n' + MACHINE.format("one"), ["machine one: host", "[profile.linux]", "take the line"]),
        (PROFILE + MACHINE.format("one") + 'machine_id = "x"\n', ["machine one: machine_id", "its entry"]),
        (PROFILE + 'machine_id = "x"\n' + MACHINE.format("one"), ["machine one: machine_id", "[profile.linux]"]),
        (PROFILE + 'profile = "x"\n' + MACHINE.format("one"), ["machine one: profile", "[profile.linux]"]),
        ("a = " + "9" * 5000, ["not TOML", "digits"]),
        ("a = " + "[" * 5000, ["not TOML", "recursion"]),
        ("", ["profile: ", "required"]),
        ("\x00" * 100, ["not TOML"]),
        (PROFILE.encode() + b"# caf\xe9\n", ["line 5", "0xe9", "UTF-8"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_broken_file_is_refused_and_shown_and_the_last_good_one_stays(
    file: File, wishes: Wishes, content: str | bytes, words: list[str]
) -> None:
    """Until it is good again: for the service, which says where to look, and for the helper that opens the routes."""
    allowance = Allowance(file.path)
    file.say(PROFILE + 'routes = ["none", "simulated"]\n' + MACHINE.format("one"))
    wishes.refresh()
    assert allowance.allows("one", "simulated")
    before = dict(wishes.specs)
    file.say(content)
    wishes.refresh()
    assert wishes.specs == before
    assert [word for word in (str(file.path), *words) if word not in wishes.fault] == [], wishes.fault
    assert allowance.allows("one", "simulated")
    file.say(PROFILE + MACHINE.format("one"))
    wishes.refresh()
    assert wishes.fault == ""
    assert not allowance.allows("one", "simulated")


@pytest.mark.parametrize(
    "content", [b"# caf\xe9\n", b"egress = 1\n", b"egress = \n"], ids=["byte", "kind", "cut short"]
)
def test_a_broken_file_is_told_to_who_starts_the_helper(file: File, content: bytes) -> None:
    """The helper ends in words, as its own settings make it do, instead of in a traceback."""
    file.say(content)
    for load in (load_egress, load_helper_settings):
        with pytest.raises(NetworkFault, match=re.escape(str(file.path))):
            load(file.path)


def test_a_service_tells_of_a_byte_in_its_own_settings_that_is_not_text(file: File) -> None:
    """By the line."""
    file.say(b'host = "local"\n# caf\xe9\n')
    with pytest.raises(SettingsRefused, match="line 2: the byte 0xe9 is not UTF-8"):
        load_settings(ServiceSettings, str(file.path))


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
