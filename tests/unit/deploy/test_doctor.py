"""The doctor says which walls around plugins the kernel does not have."""

from pathlib import Path

import pytest

from deploy.local import doctor
from deploy.local.state import State, locate
from malbox.sdk import landlock

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("version", "level", "says"),
    [(0, "note", "without this wall"), (3, "note", "version 3 of 6"), (6, "ok", "version 6"), (7, "ok", "version 7")],
)
def test_a_kernel_without_all_of_landlock_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, level: str, says: str
) -> None:
    """It is a note: the other walls stand; and it says what would help."""
    monkeypatch.setattr(doctor, "landlock", lambda _state: (version, 6))
    [finding] = doctor.last_wall(State(tmp_path))
    assert finding.level == level
    assert says in finding.found
    assert bool(finding.remedy) == (level == "note")


def test_the_kernel_is_asked_by_the_sdk() -> None:
    """In a process of its own: the deployment imports nothing of it."""
    assert doctor.landlock(locate(CHECKOUT)) == (landlock.version(), landlock.SCOPES_SINCE)


def test_an_installation_without_source_is_told_what_to_run(tmp_path: Path) -> None:
    """Not with a trace."""
    [finding] = doctor.last_wall(State(tmp_path))
    assert (finding.level, finding.remedy) == ("fault", f"run {doctor.BOOTSTRAP}")
