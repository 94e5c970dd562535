"""The message that ends a stage is one message, whatever its errors say."""

import pytest

from contracts.envelope import Envelope
from contracts.ids import derived
from contracts.plugins import PluginStageCompleted, RunError
from services.chassis.clock import SystemClock
from services.plugins.policy.errors_told import REASON_MAX_CHARS, errors_told
from services.plugins.record import RESULTS_PER_STAGE_MAX


def failures(count: int, reason: str) -> list[RunError]:
    """So many plugins failed, each for that reason."""
    return [RunError(plugin=f"plugin{n}", stage="static", outcome="failed", reason=reason) for n in range(count)]


def test_a_few_errors_are_told_as_they_are() -> None:
    """Only long reasons are cut."""
    few = failures(3, "so")
    assert errors_told(few) == tuple(few)
    assert [len(error.reason) for error in errors_told(failures(2, "x" * 1000))] == [REASON_MAX_CHARS] * 2
    assert errors_told([]) == ()


@pytest.mark.promise("P35", "P37")
@pytest.mark.parametrize("reason", ["x" * 1000, "\N{PILE OF POO}" * 1000, '"' * 1000, "\x01" * 1000])
@pytest.mark.parametrize("count", [22, 500])
def test_a_stage_in_which_everything_failed_still_ends(count: int, reason: str) -> None:
    """With as many results as are named; what is not told is counted."""
    told = errors_told(failures(count, reason))
    named = tuple(derived("res", str(number)) for number in range(RESULTS_PER_STAGE_MAX))
    fact = PluginStageCompleted(
        task_id=derived("tsk", "x"), attempt=1, stage="static", result_ids=named, errors=told, ended_by="timeout"
    )
    assert Envelope.wrap(fact, message_id="m" * 40, source="plugins", at=SystemClock().now()).to_json()
    if len(told) < count:
        assert told[-1].reason.startswith(f"{count - len(told) + 1} more errors of this stage")
