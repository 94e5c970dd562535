"""Which routes a machine offers, and whether it needs a card for them."""

import pytest

from contracts.submission import Route
from services.machines.domain.spec import MachineSpec

SPEC = MachineSpec(machine_id="m", host="local", profile="linux", platform="linux", image="linux")


@pytest.mark.parametrize(
    ("wanted", "offered", "kept"),
    [
        (("none", "simulated"), ("none", "simulated", "internet"), ("none", "simulated")),
        (("none", "simulated", "internet"), ("none", "simulated"), ("none", "simulated")),
        (("simulated",), ("none",), ("none",)),
        (("none", "internet"), ("none",), ("none",)),
    ],
)
@pytest.mark.promise("C3", "F6", "P21")
def test_a_machine_offers_no_route_that_its_host_cannot_open(
    wanted: tuple[Route, ...], offered: tuple[Route, ...], kept: tuple[Route, ...]
) -> None:
    """What is written down and cannot be had is not promised; the route none always can."""
    narrowed = SPEC.model_copy(update={"routes": wanted}).narrowed(offered)
    assert narrowed.routes == kept
    assert narrowed.has_analysis_card == (kept != ("none",))
