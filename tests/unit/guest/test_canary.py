"""The canary that the agent plants for a lease, and finds for whoever asks."""

from pathlib import Path

import pytest

from guest import limits
from guest.canary import FILE, VARIABLE, Canary, CanaryRefused
from guest.settings import AgentSettings

MARK = b"malbox-canary:" + b"5" * 64


def a_canary(tmp_path: Path, *, variables: bool) -> Canary:
    """That of a machine with or without firmware that keeps variables."""
    for name in ("work", "variables"):
        (tmp_path / name).mkdir(exist_ok=True)
    return Canary(
        AgentSettings(
            work_dir=str(tmp_path / "work"), firmware_variables_dir=str(tmp_path / "variables") if variables else ""
        )
    )


@pytest.mark.promise("P8")
@pytest.mark.parametrize("variables", [True, False])
def test_a_planted_canary_is_found_in_every_place_and_a_fresh_incarnation_has_none(
    tmp_path: Path, *, variables: bool
) -> None:
    """Memory, disk, and firmware where there is one; before it was planted nothing is found."""
    canary = a_canary(tmp_path, variables=variables)
    assert canary.found() == {}
    canary.plant(MARK)
    assert canary.found() == dict.fromkeys(canary.places, MARK)
    assert ("firmware" in canary.places) == variables


@pytest.mark.promise("P8")
def test_what_an_earlier_agent_left_is_found_by_the_next(tmp_path: Path) -> None:
    """The mutant that this is for: a disk, or firmware, that was not put back."""
    a_canary(tmp_path, variables=True).plant(MARK)
    assert a_canary(tmp_path, variables=True).found() == {"disk": MARK, "firmware": MARK}
    (tmp_path / "work" / FILE).unlink()
    assert a_canary(tmp_path, variables=True).found() == {"firmware": MARK}


def test_a_variable_is_written_with_the_attributes_that_keep_it(tmp_path: Path) -> None:
    """Non-volatile, for boot services and at run time, as UEFI numbers them."""
    a_canary(tmp_path, variables=True).plant(MARK)
    assert (tmp_path / "variables" / VARIABLE).read_bytes() == bytes([7, 0, 0, 0]) + MARK


def test_a_canary_that_is_too_long_or_has_no_place_is_refused(tmp_path: Path) -> None:
    """The enrolment fails, and with it the verification: no evidence is better than half of it."""
    canary = a_canary(tmp_path, variables=False)
    with pytest.raises(CanaryRefused):
        canary.plant(b"x" * (limits.CANARY_MAX_BYTES + 1))
    (tmp_path / "work").rmdir()
    with pytest.raises(CanaryRefused):
        canary.plant(MARK)
