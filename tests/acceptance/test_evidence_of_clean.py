"""Ready means verified clean, and what cannot be verified is not ready: on a real machine, judged from the host."""

import os

import pytest

from tests.prove import canary, tampering, unkillable
from tests.prove.ground import Ground

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400), pytest.mark.usefixtures("figures_shown")]
LEASES = 3


@pytest.mark.promise("P8", "P24")
async def test_a_canary_is_never_seen_by_the_next_lease(ground: Ground) -> None:
    """Three leases: each finds its own, in the guest and from the host, in memory and on the disk, and no other's."""
    found = await canary.prove_all(ground, LEASES)
    assert [lease.own_found_in for lease in found] == [("memory", "overlay")] * LEASES


@pytest.mark.promise("P7", "P8")
async def test_a_base_image_with_one_byte_changed_is_never_leased(ground: Ground) -> None:
    """Changed in the moment in which a task asks for the machine: quarantined, with both digests and what to do."""
    await tampering.prove(ground, "middle of the disk", "while it stands ready")


@pytest.mark.promise("P9", "P10")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can put a process into the kernel's freezer")
async def test_an_emulator_that_cannot_be_killed_is_never_reused(ground: Ground) -> None:
    """Its machine ends quarantined with its files kept, is leased to nobody, and is built again once it is gone."""
    await unkillable.prove(ground, "while it stands ready")
