"""Servers killed, starved, slowed, cut off and put back; clocks that jump; a driver that stands still and wakes."""

import asyncio

import pytest

from tests.crash.ground import Ground
from tests.crash.harms import HARMS
from tests.crash.runs import Arena

pytestmark = pytest.mark.timeout(400)
SHORT = [
    pytest.param(name, marks=pytest.mark.promise(*promises))
    for name, promises in {
        "broker-killed": ("P12", "P15", "P17", "P20"),
        "database-killed": ("P12", "P13", "P18"),
        "database-full": ("P18",),
        "database-slow": ("P18",),
        "database-restored": ("P4",),
        "link-cut-after-commit": ("P13", "P15", "P20"),
        "driver-stopped": ("P2", "P15", "G4"),
        "clock-of-machines": ("P19",),
        "clock-of-plugins": ("P19",),
    }.items()
]


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_and_all_comes_to_rest(
    prepared_ground: Ground, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Done while files are submitted: each becomes one task with one end, machines are clean, nothing is parked."""
    short = HARMS[name].short
    assert short is not None

    async def once() -> str:
        async with Arena.on(prepared_ground) as arena:
            return await short(arena)

    said = asyncio.run(once())
    with capsys.disabled():
        print(f"\n{name}: {said}")  # noqa: T201 - the figures are part of the proof


def test_every_short_form_is_a_test() -> None:
    """None is forgotten but the clocks that decide nothing about machines or samples."""
    tested = {param.values[0] for param in SHORT}
    assert {name for name, harm in HARMS.items() if harm.short is not None} - tested == {
        "clock-of-intake",
        "clock-of-scheduler",
        "clock-of-results",
    }
