"""Guests' networks in a deployment: who can have them, what the first machines are offered, what the doctor says."""

import os
from pathlib import Path

import pytest

from deploy.local import doctor, network, settings
from deploy.local.state import State


@pytest.mark.promise("F6", "P23")
@pytest.mark.parametrize(("uid", "offered"), [(0, ["none", "simulated"]), (1000, ["none"])])
def test_the_first_machines_are_offered_what_the_installation_can_open(
    uid: int, offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root makes networks: another user's machines are promised none."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert settings.routes() == offered
    assert network.is_possible() == (uid == 0)


@pytest.mark.promise("F6")
def test_the_doctor_says_what_keeps_guests_from_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not root is a note with its remedy; a missing program is a fault that names it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    [note] = doctor.networks(State(tmp_path))
    assert (note.level, "as root" in note.remedy) == ("note", True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(network, "PROGRAMS", (tmp_path / "no-such-program",))
    [fault] = doctor.networks(State(tmp_path))
    assert fault.level == "fault"
    assert "no-such-program" in fault.found
