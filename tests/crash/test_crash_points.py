"""Services die at every crash point, in pairs; everything comes to rest and nothing that was accepted is lost.

The long form: `python -m tests.crash --count 200`, part of `make prove`.
"""

import asyncio

import pytest

from services.chassis.crash_points import Point
from tests.crash.cases import OF_REAL_MACHINES, PAIRS, PASSED_BY, case_of, one_for_each_point
from tests.crash.ground import Ground
from tests.crash.runs import Arena, Figures

pytestmark = pytest.mark.timeout(600)


@pytest.mark.promise("P3", "P12", "P13", "P15", "P16", "P20", "B1b")
def test_nothing_is_lost_wherever_services_die(prepared_ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    """One death at each point: in 120 s all machines are at rest and all tasks over, with one end each, readable."""

    async def all_runs() -> Figures:
        figures = Figures()
        async with Arena.on(prepared_ground) as arena:
            for case in one_for_each_point():
                figures.survived.append(await arena.run(case))
        return figures

    figures = asyncio.run(all_runs())
    with capsys.disabled():
        print(f"\n{figures.table()}")  # noqa: T201 - the figures are part of the proof
    died = {death.point for survived in figures.survived for death in survived.case.deaths}
    assert died == set(Point) - set(OF_REAL_MACHINES)


def test_the_seeds_of_the_long_form_come_to_every_point_of_every_service() -> None:
    """As many seeds as there are pairs of service and point name each pair first, once."""
    firsts = [(case.deaths[0].service, case.deaths[0].point) for case in map(case_of, range(len(PAIRS)))]
    assert sorted(firsts) == sorted(PAIRS)


def test_every_point_is_come_to_by_a_service_or_is_said_to_be_come_to_elsewhere() -> None:
    """Never both, so that no new point is left out of the runs in silence."""
    passed = {point for points in PASSED_BY.values() for point in points}
    assert passed | set(OF_REAL_MACHINES) == set(Point)
    assert passed & set(OF_REAL_MACHINES) == set()
