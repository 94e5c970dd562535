"""The short form of the proof with impostors; `make prove` runs the long one."""

import os

import pytest

from tests.prove.impostors import prove

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root in its guest, and so it must be here"),
]
COUNT = 400
KINDS_MIN = 40


@pytest.mark.promise("P28", "C1", "C2", "C3")
async def test_no_impostor_is_accepted_at_either_end_of_the_guest_channel(capsys: pytest.CaptureFixture[str]) -> None:
    """Some hundreds of every kind; the right host and the right agent are accepted between them, each time."""
    tally = await prove(COUNT)
    with capsys.disabled():
        print(f"\n{tally.tries.total()} impostors of {len(tally.tries)} kinds, {tally.accepted.total()} accepted")  # noqa: T201 - the figures are part of the proof
    assert {name: times for name, times in tally.accepted.items() if times} == {}
    assert tally.tries.total() == COUNT
    assert len(tally.tries) >= KINDS_MIN
    assert tally.controls_accepted == tally.controls > 0
