"""How long a report waits for a result that was announced."""

import pytest

from services.results.sealing import _wait_s, _waited_at_least
from services.results.settings import ResultsSettings

PATIENCE_S = float(ResultsSettings.model_fields["seal_patience_s"].default)


@pytest.mark.promise("P19")
def test_a_clock_that_is_set_forward_does_not_use_up_the_patience_of_a_report() -> None:
    """However late it seems to be, so many looks have to be taken as patience has room for."""
    looks = next(attempt for attempt in range(1, 1000) if _waited_at_least(attempt).total_seconds() >= PATIENCE_S)
    assert _waited_at_least(1).total_seconds() == 0
    assert sum(_wait_s(attempt) for attempt in range(1, looks - 1)) < PATIENCE_S
    assert looks > PATIENCE_S / _wait_s(1000)
