"""Which crash points a process of each service comes to, and which of them a seed chooses."""

import random
from dataclasses import dataclass

from deploy.local.state import SERVICES
from services.chassis.crash_points import Point

EVERYWHERE = (
    Point.COMMIT_BEFORE,
    Point.COMMIT_AFTER,
    Point.PUBLISH_BEFORE,
    Point.PUBLISH_CONFIRMED,
    Point.PUBLISH_AFTER,
    Point.ACK_BEFORE,
    Point.ACK_AFTER,
)
CLAIMING = (Point.CLAIM_AFTER,)
PROJECTING = (Point.PROJECTION_BEFORE, Point.PROJECTION_AFTER)
STORING = (Point.BLOB_BEFORE, Point.BLOB_AFTER)
TALKING = (Point.AGENT_BEFORE, Point.AGENT_AFTER)
HOSTING = (Point.FENCE_BEFORE, Point.FENCE_AFTER, Point.HYPERVISOR_BEFORE, Point.HYPERVISOR_AFTER)
PASSED_BY: dict[str, tuple[Point, ...]] = {
    "intake": (*EVERYWHERE, *STORING),
    "scheduler": (*EVERYWHERE, *PROJECTING),  # what it claims is due only when somebody else's word stays away
    "machines": (*EVERYWHERE, *CLAIMING, *PROJECTING, *HOSTING, *TALKING),
    "plugins": (*EVERYWHERE, *CLAIMING, *STORING, *TALKING),
    "results": (*EVERYWHERE, *CLAIMING, *STORING),
}
OF_REAL_MACHINES = (
    Point.RECORD_BEFORE,
    Point.RECORD_AFTER,
    Point.SNAPSHOT_BEFORE,
    Point.SNAPSHOT_AFTER,
    Point.HOST_BEFORE,
    Point.HOST_AFTER,
)
"""Where no process of a run comes to: instant machines have no files and no emulator. `tests/prove/deaths.py` does."""
PAIRS = tuple((service, point) for service in SERVICES for point in PASSED_BY[service])
NTH_MAX = 8
SECOND_SHARE = 0.25


@dataclass(frozen=True)
class Death:
    """One process is to die at the nth time that it comes to the point."""

    service: str
    point: Point
    nth: int

    def __str__(self) -> str:
        """For people, and for the process itself behind the colon."""
        return f"{self.service} at {self.where}"

    @property
    def where(self) -> str:
        """What arms the process."""
        return f"{self.point}:{self.nth}"


@dataclass(frozen=True)
class Case:
    """One run: who dies where, and sometimes a second process, of another service."""

    seed: int
    deaths: tuple[Death, ...]

    def __str__(self) -> str:
        """One line."""
        return f"seed {self.seed}: {' and '.join(map(str, self.deaths))}"


def case_of(seed: int) -> Case:
    """The same case for the same seed. Every pair of service and point comes once in as many seeds as there are."""
    chance = random.Random(seed)  # noqa: S311 - to choose a test, not a secret
    first = Death(*PAIRS[seed % len(PAIRS)], chance.randint(1, NTH_MAX))
    if chance.random() >= SECOND_SHARE:
        return Case(seed, (first,))
    others = [pair for pair in PAIRS if pair[0] != first.service]
    return Case(seed, (first, Death(*chance.choice(others), chance.randint(1, NTH_MAX))))


def one_for_each_point() -> list[Case]:
    """Few cases in which every point kills somebody: two deaths in each, of two services."""
    passed = [point for point in Point if point not in OF_REAL_MACHINES]
    waiting = [Death(_rarest(point, number), point, 2) for number, point in enumerate(passed)]
    cases: list[Case] = []
    while waiting:
        first = waiting.pop(0)
        other = next((death for death in reversed(waiting) if death.service != first.service), None)
        if other is not None:
            waiting.remove(other)
        cases.append(Case(len(cases), (first,) if other is None else (first, other)))
    return cases


def _rarest(point: Point, turn: int) -> str:
    """A service that comes to the point, in turns where several do."""
    able = [service for service in SERVICES if point in PASSED_BY[service]]
    return able[turn % len(able)]
