"""The long proofs are run in order, up to the first that fails, and each says what it saw."""

import pytest

from tests.prove import __main__ as prove
from tests.prove import network_deeds
from tests.prove.drift_table import TABLE
from tests.prove.proofs import PROOFS, Proof

HOLDS = Proof("holds", "P3", ("tests.unit.prove.proof", "seen", "0"))
FAILS = Proof("fails", "P4", ("tests.unit.prove.proof", "broken", "1"))
NEVER = Proof("never", "P5", ("tests.unit.prove.proof", "unseen", "0"))


def test_the_first_that_fails_is_the_last(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What comes after it is not run; the command that runs it alone is told."""
    monkeypatch.setattr(prove, "PROOFS", (HOLDS, FAILS, NEVER))
    assert prove.main([]) == 1
    said = capsys.readouterr().out
    assert "fails failed; alone it is: .malbox/venv/bin/python -m tests.unit.prove.proof broken 1" in said
    assert "unseen" not in said


def test_what_a_proof_saw_is_in_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last line."""
    monkeypatch.setattr(prove, "PROOFS", (HOLDS, NEVER))
    assert prove.main(["holds"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["holds", "yes", "seen"] in [[*row[:2], *row[3:]] for row in rows]


def test_canaries_are_looked_for_in_fifty_leases_with_each_firmware() -> None:
    """On the disk, in memory and, where there are any, in the firmware's variables."""
    asked = [proof.arguments[1:] for proof in PROOFS if proof.arguments[0] == "tests.prove.canary"]
    assert asked == [("--count", "50"), ("--count", "50", "--firmware", "efi")]


def test_every_drift_that_ends_an_incarnation_has_to_be_recorded_with_a_reason() -> None:
    """What is kept moves no machine on, so nothing is recorded of it."""
    assert [drift.name for drift in TABLE if not drift.says and drift.outcome != "kept"] == []


def test_rules_are_flushed_of_machines_that_stand_ready_and_of_leased_ones() -> None:
    """Nobody's machine is cleaned; one whose sample may have got out is quarantined."""
    flushed = {drift.when: drift for drift in TABLE if drift.do is network_deeds.rules_flushed}
    ends = {when: (drift.outcome, drift.route, drift.within_s) for when, drift in flushed.items()}
    assert ends == {"ready": ("healed", "none", 30.0), "leased": ("quarantined", "simulated", 30.0)}


def test_every_proof_has_a_name_of_its_own() -> None:
    """The table and the command line tell them apart by it."""
    names = [proof.name for proof in PROOFS]
    assert len(set(names)) == len(names)
