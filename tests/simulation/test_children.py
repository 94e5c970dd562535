"""Files found inside a sample are tasks of its submission once and for all, whatever fails on the way."""

import hashlib
from typing import Any

import pytest

from contracts.ids import uuid_of
from contracts.scheduler import TERMINAL_STATES
from services.intake.domain.family import Family
from tests.simulation.run import Outcome, Simulation

INSIDE = {"t0.bin": (b"first", b"second", b"first"), "0001": (b"third", b"first")}
"""A child is named by the number of its result. The first is what holds the third, which holds the first again."""
CONTENTS = (b"sample t0.bin", b"first", b"second", b"third")


class WithChildren(Simulation):
    """A sample that has others inside, at rest when these are."""

    families: tuple[Family, ...] = ()
    ends: dict[str, int]

    def __init__(self, seed: int) -> None:
        super().__init__(seed, is_eventful=False)
        self.sandbox.inside = INSIDE

    def is_at_rest(self) -> bool:
        """Nobody waits to hear what became of a file, and every task of every submission is over."""
        if not super().is_at_rest():
            return False
        if self.stores.databases["plugins"].run("SELECT key FROM work WHERE kind = 'confirm_children'", ()):
            return False
        rows = self.stores.databases["scheduler"].run("SELECT state FROM task_rows", ())
        machines = [self.stores.machine_state(spec.machine_id) for spec in self.around.specs]
        may_wait = "ready" not in machines
        return all(row["state"] in TERMINAL_STATES or (may_wait and row["state"] == "queued") for row in rows)

    def settle(self) -> None:
        """What came of it is kept: the databases are gone when the run is over."""
        super().settle()
        found: dict[Any, Any] = {}
        for row in self.stores.databases["intake"].run("SELECT stream, version, topic, state FROM events", ()):
            found[row["stream"]] = self._decode(row["stream"], row["version"], row["topic"], row["state"]).mutate(
                found.get(row["stream"])
            )
        self.families = tuple(found.values())
        self.ends = dict(self.truth.ends)


@pytest.mark.promise("P15", "P20")
@pytest.mark.parametrize("start", [1, 7])
def test_a_child_is_one_task_that_ends_once_under_every_fault(start: int) -> None:
    """Crashes, lost messages and lost replies make no second task of a content, and lose none."""
    whole = 0
    for seed in range(start, start + 6):
        sim = WithChildren(seed)
        outcome: Outcome = sim.run()
        assert not outcome.violations, f"seed {seed}: {outcome.violations[:3]}"
        for family in sim.families:
            contents = [member.sha256 for member in family.members.values()]
            assert len(contents) == len(set(contents))
            assert family.id == uuid_of(family.submission_id)
            assert all(sim.ends.get(task_id, 0) <= 1 for task_id in family.members)
            if family.closed_by is None:
                assert set(contents) == {hashlib.sha256(content).hexdigest() for content in CONTENTS}, f"seed {seed}"
                whole += 1
    assert whole
