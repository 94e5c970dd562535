"""What somebody does to a machine behind the services' back is put right while they run, within half a minute."""

import pytest

from tests.prove.drift_table import TABLE, Drift
from tests.prove.drifts import prove_all
from tests.prove.ground import Ground

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240), pytest.mark.usefixtures("figures_shown")]


def test_the_table_has_more_than_twenty_drifts_each_with_a_name_of_its_own() -> None:
    """The long form goes through all of it: `python -m tests.prove.drifts`."""
    assert len({drift.name for drift in TABLE}) == len(TABLE) > 20


@pytest.mark.promise("P5", "P6", "P7", "G2")
@pytest.mark.parametrize("drift", [drift for drift in TABLE if drift.is_short], ids=lambda drift: drift.name)
async def test_a_drift_is_put_right_while_everything_runs(ground: Ground, drift: Drift) -> None:
    """As the table says: healed, or kept; nothing is left over, and somebody else's domain is never touched."""
    (outcome,) = await prove_all(ground, [drift], earns_trust=False)
    assert not outcome.failure
