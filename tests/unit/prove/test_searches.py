"""The searches that proofs on real guests rely on find what is there: the positive control of every "nothing"."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.state import State
from tests.prove.drifts import said
from tests.prove.facts import Ear, Fact, NotHeardError
from tests.prove.orphans import orphans
from tests.prove.traces import PIECE_BYTES, Marks

START = b"mark-" + b"of-a-test-"
MARK = START + b"0123456789abcdef" * 2
METADATA = '<domain><metadata><m:machine xmlns:m="urn:malbox:machine:1" id="{id}" epoch="{epoch}"/></metadata></domain>'


@dataclass(frozen=True)
class Domain:
    """What libvirt would say of one."""

    label: str
    number: int
    xml: str

    def name(self) -> str:
        """Its name."""
        return self.label

    def ID(self) -> int:  # noqa: N802 - libvirt's word
        """Its number."""
        return self.number

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - libvirt's word
        """Its definition."""
        return self.xml


@dataclass(frozen=True)
class Host:
    """A libvirt with these domains."""

    domains: tuple[Domain, ...]

    def listAllDomains(self, _flags: int) -> tuple[Domain, ...]:  # noqa: N802 - libvirt's word
        """All of them."""
        return self.domains


def a_state(tmp_path: Path, *entries: str) -> State:
    """An installation whose one machine has those entries in its directory, and libvirt those of two domains."""
    state = State(tmp_path)
    for entry in entries:
        (state.machines / "linux-1" / entry).mkdir(parents=True)
    for name in ("domain-3-malbox-linux-1", "domain-4-somebody-elses"):
        (state.libvirt / "config/libvirt/qemu/lib" / name).mkdir(parents=True)
    return state


OURS = Domain("malbox-linux-1", 3, METADATA.format(id="linux-1", epoch=7))
STRANGER = Domain("somebody-elses", 4, "<domain/>")


@pytest.mark.parametrize(("machine_state", "epoch"), [("ready", 7), ("active", 8)])
def test_what_belongs_to_the_incarnation_is_no_orphan(tmp_path: Path, machine_state: str, epoch: int) -> None:
    """A leased machine runs on the incarnation of the epoch before; strangers are nobody's business."""
    state = a_state(tmp_path, "warm", "life-7")
    machine = {"machine_id": "linux-1", "state": machine_state, "epoch": epoch}
    assert orphans(state, Host((OURS, STRANGER)), [machine]) == []


@pytest.mark.promise("P5")
def test_every_kind_of_orphan_is_found(tmp_path: Path) -> None:
    """A domain of another epoch, one of no machine, an older overlay, half a snapshot, a socket's directory."""
    state = a_state(tmp_path, "warm", "life-6", "life-7", "building-5")
    host = Host((OURS, Domain("malbox-intruder", 9, "<domain/>")))
    found = orphans(state, host, [{"machine_id": "linux-1", "state": "ready", "epoch": 8}])
    assert found == [
        "domain malbox-linux-1 of ('linux-1', 7)",
        "domain malbox-intruder of None",
        "linux-1/building-5",
        "linux-1/life-6",
        "linux-1/life-7",
        "libvirt's domain-4-somebody-elses",
    ]


@pytest.mark.promise("P8")
@pytest.mark.parametrize("offset", [0, PIECE_BYTES - 7, PIECE_BYTES])
def test_a_mark_is_found_in_a_file_wherever_it_lies(tmp_path: Path, offset: int) -> None:
    """Also across the pieces in which it is read; half a mark is none."""
    marks = Marks(START)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "disk").write_bytes(bytes(offset) + MARK + b"tail")
    assert marks.in_files_below(tmp_path) == {MARK}
    (tmp_path / "a" / "disk").write_bytes(bytes(offset) + MARK[:-1])
    assert marks.in_files_below(tmp_path) == set()


@pytest.mark.promise("P8")
def test_a_mark_is_found_in_the_memory_of_a_process() -> None:
    """This one's own: it holds the mark for as long as the test runs."""
    held = bytearray(MARK)
    assert MARK in Marks(START).in_memory(os.getpid())
    assert held


async def test_what_was_not_said_in_time_is_an_error_that_says_what_was_said_instead() -> None:
    """And what was said before the mark does not count."""
    ear = Ear()
    ear.facts.append(Fact("machine.reverted", {"machine_id": "linux-1"}, 0.0))
    mark = ear.mark()
    ear.facts.append(Fact("machine.drifted", {"machine_id": "linux-1", "reason": "gone"}, 1.0))
    found = await ear.until("a drift", lambda fact: fact.name == "machine.drifted", since=mark, timeout_s=1)
    assert found.data["reason"] == "gone"
    with pytest.raises(NotHeardError, match="gone"):
        await ear.until("clean", lambda fact: fact.name == "machine.reverted", since=mark, timeout_s=0.01)


def test_a_proof_of_nothing_says_that_it_saw_nothing() -> None:
    """The last line of a proof's output is what `make prove` shows."""
    assert said([]).splitlines()[-1].startswith("0 drifts, 0 failed")
