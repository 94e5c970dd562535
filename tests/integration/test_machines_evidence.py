"""What shows that a machine is clean, on a real store: what is refused, and what is nobody's failure."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.machines.adapters.instant import NOWHERE
from services.machines.domain.fence import Claim
from services.machines.domain.machine import REBUILDS_MAX
from services.machines.errors import DigestMismatch, GuestUnreachable, HypervisorUnavailable
from services.machines.ports import Attestation, DomainSeen, Enrolment, Incarnation, Provisioned
from tests.integration.machines_bench import M1, M2, Bench, lease_order, release_order, spec, two_ready

pytestmark = pytest.mark.integration


@pytest.fixture
async def made(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """Two ready machines."""
    async with two_ready(database_url, tmp_path) as one:
        yield one


@pytest.mark.promise("P7", "P8")
async def test_a_machine_whose_files_were_tampered_with_is_quarantined_and_never_builds_itself_again(
    made: Bench,
) -> None:
    """One changed byte of what it is made of is a matter for a person; nobody leases it meanwhile."""

    async def restore(_spec: object, *, epoch: int, claim: Claim) -> Incarnation:
        raise DigestMismatch(f"disk.qcow2 is not the one that was digested, at epoch {epoch}, claim {claim}")

    made.host.restore = restore  # type: ignore[assignment]
    leased = await made.leased(M1)
    await made.hear(release_order(leased))
    machine = await made.is_in(M1, "quarantined")
    assert (machine.quarantine_cause, machine.failures) == ("digest_mismatch", 0)
    made.clock.shift = timedelta(days=1)
    assert M1 not in await made.reconcile()
    await made.hear(lease_order(M1, operation_id="ope_2"))
    assert (await made.load(M1)).state == "quarantined"
    # The other machine, whose evidence is a day old as well, is restored meanwhile: its word may come last.
    assert (await made.said()).count("machines.machine.lease-refused.v1") == 1


@pytest.mark.promise("P7", "P28")
async def test_a_guest_that_draws_a_name_that_was_drawn_before_is_not_ready(made: Bench) -> None:
    """Its random generator was not re-seeded, so its keys are copies of another incarnation's."""
    honest = made.host.enrol

    async def enrol(*arguments: Any, **named: Any) -> Enrolment:
        return replace(await honest(*arguments, **named), instance_id="the same again")

    made.host.enrol = enrol  # type: ignore[method-assign]
    for name, expected in ((M1, "ready"), (M2, "quarantined")):
        await made.leased(name, operation_id=f"ope_{name}")
        await made.hear(release_order(await made.load(name)))
        machine = await made.is_in(name, expected)
    assert "not re-seeded" in machine.quarantine_reason


@pytest.mark.promise("P3")
async def test_a_guest_that_never_answers_is_booted_once_for_each_build(made: Bench) -> None:
    """Another boot of the same build would be as silent: it is built anew, as often as may be, and out of the pool."""
    boots: list[int] = []

    async def provision(*_arguments: Any, epoch: int, agent_waits: Any, **_named: Any) -> Provisioned:
        boots.append(epoch)
        await agent_waits(NOWHERE)
        return Provisioned("none", {})

    async def attest(*_arguments: Any, **_named: Any) -> Attestation:
        raise GuestUnreachable("no agent answers")

    made.host.provision, made.host.attest = provision, attest  # type: ignore[method-assign]
    made.wishes.put(spec(M1, memory_mib=2048), spec(M2))
    await made.reconcile()
    machine = await made.is_in(M1, "quarantined")
    assert "no agent answers" in machine.quarantine_reason
    assert len(boots) == len(set(boots)) == 1 + REBUILDS_MAX


@pytest.mark.promise("P10", "P3")
async def test_a_host_that_is_away_is_not_a_machine_that_cannot_be_cleaned(made: Bench) -> None:
    """No failure is counted while nobody can be asked; the work goes on when the host is back."""
    honest, asked = (made.host.destroy, made.host.observe), asyncio.Event()

    async def destroy(_machine_id: str, *, epoch: int, claim: Claim) -> None:
        raise HypervisorUnavailable(f"not now, at epoch {epoch}, claim {claim}")

    async def observe() -> list[DomainSeen]:
        asked.set()
        raise HypervisorUnavailable

    leased = await made.leased(M1)
    made.host.destroy, made.host.observe = destroy, observe  # type: ignore[method-assign, assignment]
    await made.hear(release_order(leased))
    await asked.wait()  # every attempt was made, and whether anybody can be asked
    made.host.destroy, made.host.observe = honest  # type: ignore[method-assign]
    machine = await made.is_in(M1, "ready")
    assert machine.cleaning_failures == 0
    topics = await made.store.fetch("SELECT topic FROM events WHERE topic = 'machine:cleaning-failed'")
    assert topics == []
