"""The long proofs are run in order, up to the first that fails, and each says what it saw."""

import pytest

from tests.prove import __main__ as prove
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
    assert ["holds", "yes", "0", "seen"] in rows


def test_every_proof_has_a_name_of_its_own() -> None:
    """The table and the command line tell them apart by it."""
    names = [proof.name for proof in PROOFS]
    assert len(set(names)) == len(names)
