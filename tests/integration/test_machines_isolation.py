"""Networks and leases together, on a real store: nothing is leased, or stays so, without its walls."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.machines import CaptureStored
from contracts.scheduler import ReleaseMachine
from services.machines.errors import IsolationBroken, NetworkUnavailable
from services.machines.ports import Isolation
from tests.integration.machines_bench import HOST, TASK, Bench, bench, lease_order, spec

pytestmark = pytest.mark.integration
WALLED, BARE = "m1", "m2"
STORED = CaptureStored.routing_key()


@pytest.fixture(name="made")
async def made_fixture(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """A ready machine that may be put on routes, and one that has no card for them."""
    async with bench(database_url, tmp_path, spec(WALLED, routes=("none", "simulated")), spec(BARE)) as one:
        await one.reconcile()
        await one.is_in(WALLED, "ready")
        await one.is_in(BARE, "ready")
        await one.caught_up()
        yield one


async def given_back(made: Bench, name: str) -> None:
    """The task has no more use for the machine, and it is clean again."""
    machine = await made.load(name)
    assert machine.lease_id is not None
    await made.hear(
        ReleaseMachine(task_id=TASK, machine_id=name, host=HOST, lease_id=machine.lease_id, epoch=machine.epoch)
    )
    await made.is_in(name, "ready")


@pytest.mark.promise("P23", "F6")
async def test_a_ready_machine_stands_behind_a_network_that_lets_nothing_pass(made: Bench) -> None:
    """It was plugged before its guest ran; a machine without a second card has no network at all."""
    assert [(one.machine_id, one.route) for one in await made.network.observe()] == [(WALLED, "none")]


@pytest.mark.promise("P8", "F6")
async def test_the_evidence_of_clean_names_the_network(made: Bench) -> None:
    """What the kernel was seen to have, and that no frame of a guest that nobody leased was let through."""
    rows = await made.store.fetch(
        "SELECT details FROM machine_history WHERE event = 'CleanVerified' AND details::text LIKE '%network_passed%'"
    )
    assert len(rows) == 1


@pytest.mark.promise("P23", "F6")
async def test_a_lease_is_granted_on_its_route_and_closed_after_it(made: Bench) -> None:
    """The route is the lease's; the next standing incarnation is on none again, and the record of packets was told."""
    await made.leased(WALLED, route="simulated")
    assert [one.route for one in await made.network.observe()] == ["simulated"]
    await given_back(made, WALLED)
    assert [one.route for one in await made.network.observe()] == ["none"]
    assert (await made.said()).count(STORED) == 1


async def test_a_lease_on_the_route_none_has_no_record_of_packets(made: Bench) -> None:
    """The control of the record above."""
    await made.leased(WALLED)
    await given_back(made, WALLED)
    assert STORED not in await made.said()


@pytest.mark.promise("P23")
async def test_a_network_that_cannot_be_seen_to_stand_fails_the_lease(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not verified is not leased: the attempt is over, and the machine is cleaned before anybody has it again."""

    async def broken(*_words: object, **_more: object) -> Isolation:
        raise IsolationBroken("a rule is missing")

    with monkeypatch.context() as patch:
        patch.setattr(made.network, "open", broken)
        epoch = (await made.load(WALLED)).epoch
        await made.hear(lease_order(WALLED, route="simulated"))
        await made.until(WALLED, lambda machine: machine.state == "ready" and machine.epoch > epoch + 1)
    assert not any("machine.leased" in key for key in await made.said())
    assert any("lease-expired" in key for key in await made.said())


@pytest.mark.promise("P22", "P6")
async def test_a_breach_ends_the_lease_and_quarantines_the_machine_by_event(made: Bench) -> None:
    """Told, not asked: the machine is out of the pool and is not built again by itself."""
    listening = asyncio.create_task(made.isolation.listen())
    await asyncio.sleep(0)
    await made.leased(WALLED, route="simulated")
    made.network.break_isolation(WALLED, "rules: too much")
    machine = await made.is_in(WALLED, "quarantined")
    assert machine.quarantine_cause == "isolation_breached"
    listening.cancel()


@pytest.mark.promise("P22", "P6")
async def test_a_breach_that_nobody_was_told_of_is_found_by_looking(made: Bench) -> None:
    """The same by the pass at intervals."""
    await made.leased(WALLED, route="simulated")
    made.network.break_isolation(WALLED, "rules: too much")
    await made.isolation.compare()
    assert (await made.is_in(WALLED, "quarantined")).quarantine_cause == "isolation_breached"


@pytest.mark.promise("P6", "P7")
async def test_a_standing_machine_whose_network_changed_is_cleaned(made: Bench) -> None:
    """Nobody's machine is no breach: it drifted, and stands behind a fresh network afterwards."""
    epoch = (await made.load(WALLED)).epoch
    made.network.break_isolation(WALLED, "rules: missing")
    await made.isolation.compare()
    await made.until(WALLED, lambda machine: machine.state == "ready" and machine.epoch > epoch)
    await made.network.verify(WALLED, epoch=(await made.load(WALLED)).epoch)


@pytest.mark.promise("P3", "P6")
async def test_machines_come_back_after_the_helper_was_killed(made: Bench) -> None:
    """Its networks went with it: the lease is lost, not breached, and both kinds of machine are ready again."""
    await made.leased(WALLED, route="simulated")
    made.network.lose()
    await made.isolation.compare()
    await made.is_in(WALLED, "ready")
    epoch = (await made.load(WALLED)).epoch
    made.network.lose()
    await made.isolation.compare()
    await made.until(WALLED, lambda machine: machine.state == "ready" and machine.epoch > epoch)
    assert (await made.load(BARE)).state == "ready"
    assert (await made.load(WALLED)).drifts == {}


@pytest.mark.promise("P7")
async def test_a_network_that_cannot_be_looked_at_is_not_called_broken(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper that is away changes nothing about a lease."""

    async def away(*_words: object, **_more: object) -> Isolation:
        raise NetworkUnavailable("away")

    machine = await made.leased(WALLED, route="simulated")
    monkeypatch.setattr(made.network, "verify", away)
    await made.isolation.compare()
    assert (await made.load(WALLED)).version == machine.version


@pytest.mark.promise("P5")
async def test_a_network_that_no_record_knows_is_removed(made: Bench) -> None:
    """A machine that nobody knows has no network for longer than a pass; the others keep theirs."""
    await made.network.plug("stranger", epoch=3)
    await made.network.plug(BARE, epoch=99)
    await made.isolation.compare()
    assert [one.machine_id for one in await made.network.observe()] == [WALLED]
