"""The machines service dies between what libvirt did and what it records of it; the next one goes on from there."""

import pytest

from tests.prove.deaths import ANALYSIS, prove
from tests.prove.ground import Ground

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


@pytest.mark.promise("P3", "P20")
@pytest.mark.parametrize("where", ["host.before:2", "host.after:1", "record.before:1"])
async def test_a_machine_outlives_its_service(ground: Ground, where: str) -> None:
    """The analysis completes and the machine is ready again; the long form is `python -m tests.prove.deaths`."""
    survived = await prove(ground, ANALYSIS, where)
    assert survived is not None
    assert survived.quarantined == ()
