"""Records behind their host, on a real store: no epoch and no claim is given twice, whatever the store forgot."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis.rebuild import rebuild
from services.machines.adapters.host_fence import HostFence
from services.machines.domain.fence import Claim, Fence
from services.machines.domain.machine import Machine
from services.machines.errors import HypervisorUnavailable
from services.machines.ports import DomainSeen
from services.machines.projections import FLEET
from tests.integration.machines_bench import (
    M1,
    Bench,
    fence_ahead,
    release_order,
    two_ready,
)

pytestmark = pytest.mark.integration


@pytest.fixture
async def made(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """Two ready machines."""
    async with two_ready(database_url, tmp_path) as one:
        yield one


@pytest.mark.promise("P4")
async def test_after_a_restore_from_backup_no_epoch_and_no_lease_comes_twice(made: Bench) -> None:
    """What happened since the backup is forgotten by the store and not by the host."""
    backup = await made.store.fetch("SELECT max(version) AS version FROM events WHERE stream = $1", Machine.stream(M1))
    forgotten = await made.leased(M1)
    await made.store.fetch(
        "DELETE FROM events WHERE stream = $1 AND version > $2", Machine.stream(M1), backup[0]["version"]
    )
    await made.store.fetch("DELETE FROM work")
    await rebuild(made.store, FLEET)
    assert (await made.reconcile())[M1] == "fence_ahead"
    repaired = await made.is_in(M1, "ready")
    assert repaired.epoch > forgotten.epoch
    again = await made.leased(M1, operation_id="ope_2")
    assert again.epoch > forgotten.epoch
    assert again.lease_id != forgotten.lease_id


@pytest.mark.promise("P1", "P4")
async def test_a_service_that_starts_on_an_older_store_repairs_it_before_it_hears_anything(made: Bench) -> None:
    """An order that is heard first would be granted an epoch that the host acted for; libvirt need not be there."""
    await fence_ahead(made)

    async def unseen() -> list[DomainSeen]:
        raise HypervisorUnavailable("libvirt cannot be reached")

    made.host.observe = unseen  # type: ignore[method-assign]
    await made.reconciler.begin()
    assert (await made.load(M1)).epoch == 78
    assert await made.store.fetch("SELECT FROM outbox WHERE routing_key LIKE 'machines.machine.registered%'")


@pytest.mark.promise("P4", "P10")
async def test_work_that_meets_a_higher_fence_fails_no_machine(made: Bench) -> None:
    """It is not the machine that cannot be cleaned but the record that is behind: a pass repairs it."""
    leased = await made.leased(M1)
    await fence_ahead(made)
    await made.hear(release_order(leased))
    await made.until(M1, lambda machine: machine.state == "cleaning")
    await made.worked_off("clean")
    assert await made.reconcile() == {M1: "fence_ahead"}
    machine = await made.is_in(M1, "ready")
    assert (machine.epoch, machine.cleaning_failures) == (78, 0)


@pytest.mark.promise("P2", "P4")
async def test_work_whose_claim_the_host_has_passed_leads_to_another_epoch(made: Bench) -> None:
    """The store was restored from a backup of this very epoch: it gives claims again that the host acted under."""
    leased = await made.leased(M1)
    passed = Fence(leased.epoch + 1, Claim(10**9, 1))
    made.host._machines[M1].fence = passed
    await made.hear(release_order(leased))
    machine = await made.is_in(M1, "ready")
    assert (machine.epoch, machine.cleaning_failures) == (passed.epoch + 1, 0)


@pytest.mark.promise("P2")
async def test_whatever_work_asks_of_the_host_it_asks_under_its_claim(made: Bench) -> None:
    """From the build to the lease and back: the fences hold the claim of the row that acted last."""
    fence = HostFence(made.host._fences_dir / M1)  # type: ignore[operator]
    seen = [fence.stands()]
    leased = await made.leased(M1)
    seen.append(fence.stands())
    await made.hear(release_order(leased))
    await made.is_in(M1, "ready")
    seen.append(fence.stands())
    assert [one.epoch for one in seen] == [leased.epoch - 1, leased.epoch, leased.epoch + 1]
    works = [one.claim.work for one in seen]
    assert works == sorted(set(works))
    assert [one.claim.attempt for one in seen] == [1, 1, 1]
