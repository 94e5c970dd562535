"""What an observation means for a machine."""

from datetime import timedelta

import pytest

from services.machines.policy import EVIDENCE_MAX_AGE_S, divergence
from services.machines.ports import DomainSeen
from tests.unit.machines.fleet import NOW, active, lease, quarantined, ready

PAUSED = DomainSeen("malbox-linux-1", "linux-1", 3, "paused")
RUNNING = DomainSeen("malbox-linux-1", "linux-1", 3, "running")
LATER = NOW + timedelta(hours=1)


def test_a_machine_that_is_as_recorded_is_left_alone() -> None:
    """The positive control of everything below."""
    assert divergence(ready(), PAUSED, NOW) is None
    assert divergence(active(), RUNNING, NOW) is None
    assert divergence(quarantined(), None, LATER) is None


@pytest.mark.promise("P6", "P7")
def test_a_ready_machine_must_stand_still_and_have_fresh_evidence() -> None:
    """Gone, running, or verified too long ago: each is drift."""
    assert divergence(ready(), None, NOW) == "its domain is gone"
    assert divergence(ready(), RUNNING, NOW) == "its domain is running, not paused"
    late = NOW + timedelta(seconds=EVIDENCE_MAX_AGE_S + 1)
    assert divergence(ready(), PAUSED, late) == "its evidence of clean is too old"


@pytest.mark.promise("P11")
def test_a_lease_past_its_hard_deadline_is_over_even_if_its_timer_was_lost() -> None:
    """The reconciler is the second guard of the deadline."""
    assert divergence(active(), RUNNING, LATER) == "the lease reached its hard deadline"
    assert divergence(lease(ready()), RUNNING, LATER) == "the lease reached its hard deadline"


def test_a_lease_whose_virtual_machine_ended_is_over() -> None:
    """Active in the record, nothing on the host."""
    assert divergence(active(), None, NOW) == "its virtual machine ended"


@pytest.mark.promise("P10")
def test_a_quarantined_machine_must_not_run() -> None:
    """Whatever became of the work that was to stop it."""
    assert divergence(quarantined(), RUNNING, NOW) == "it is quarantined and runs"
