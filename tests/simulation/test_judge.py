"""The end of a run: rows that are behind because their last event is young are no fault, rows that stay behind are."""

from functools import cache
from unittest.mock import patch
from uuid import UUID

import pytest

from services.chassis.projections import Projector
from tests.simulation.run import Simulation

SEED = 5
"""One that comes to rest with a machine that is ready."""
LATER_S = (0.02, 0.06, 0.1, 0.15, 0.2, 0.3)
"""So long after the drift was recorded the rows would be judged, if they were not given their time."""


class LostAtRest(Simulation):
    """One in which a machine is lost when everything has come to rest, as a call that finishes late may end it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rested_at = 0.0

    def settle(self) -> None:
        """A machine is gone a second after the beginning of the rest."""
        self.rested_at = self.loop.now
        self.loop.call_at(self.rested_at + 1, self._lose)
        super().settle()

    def _lose(self) -> None:
        host = self.world.host("m1")
        assert host.life is not None
        self.world.gone(host)


@cache
def drift_was_recorded_after_s() -> float:
    """How long after the beginning of the rest the drift was recorded, seconds: the same in every run of the seed."""
    sim = LostAtRest(SEED)
    recorded: list[float] = []
    database = sim.stores.databases["machines"]
    hear = database.on_events
    assert hear is not None

    def listen(schema: str, rows: list[tuple[UUID, int, str, bytes]]) -> None:
        recorded.append(sim.loop.now)
        hear(schema, rows)

    database.on_events = listen
    sim.run()
    return next(at - sim.rested_at for at in recorded if at > sim.rested_at > 0)


@pytest.mark.promise("P16")
@pytest.mark.parametrize("later_s", LATER_S)
def test_rows_are_given_their_time_after_an_event_that_comes_when_everything_rests(later_s: float) -> None:
    """A drift that is seen just before the end is healed, and all of it in the rows, before they are judged."""
    sim = LostAtRest(SEED)
    sim.drain_s = drift_was_recorded_after_s() + later_s
    outcome = sim.run()
    assert sim.truth.recorded_at > sim.rested_at + 1
    assert not outcome.violations


@pytest.mark.promise("P16")
def test_a_row_that_stays_behind_its_events_is_seen() -> None:
    """A projection that stops for good is told from one that is late by the row that it leaves behind."""
    sim = LostAtRest(SEED)
    advance = Projector.advance

    async def stopped(self: Projector) -> tuple[int, bool]:
        return (0, False) if sim.rested_at else await advance(self)

    with patch.object(Projector, "advance", stopped):
        outcome = sim.run()
    assert any("the row of m1 says" in violation for violation in outcome.violations)
