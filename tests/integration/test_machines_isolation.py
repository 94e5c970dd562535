"""Networks and leases together, on a real store: nothing is leased, or stays so, without its walls."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.machines import CaptureStored
from services.chassis.unit import Unit
from services.machines import app, isolation
from services.machines.domain.fence import Claim
from services.machines.domain.machine import FAILURES_MAX, Machine
from services.machines.effects import work
from services.machines.errors import IsolationBroken, NetworkRefused, NetworkUnavailable, StaleEpoch
from services.machines.ports import CaptureTaken, Isolation
from tests.integration.machines_bench import Bench, bench, lease_order, release_order, spec

pytestmark = pytest.mark.integration
WALLED, BARE, OTHER = "m1", "m2", "m3"
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
    await made.hear(release_order(await made.load(name)))
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


@pytest.mark.promise("P22", "P6")
async def test_a_defect_of_a_look_ends_neither_way_of_watching(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, and the next breach and the next look are seen to."""
    monkeypatch.setattr(isolation, "RETRY_S", 0.01)
    made.isolation._interval_s = 0.01
    failed: dict[str, asyncio.Event] = {"breaches": asyncio.Event(), "observe": asyncio.Event()}
    breaches, observe = made.network.breaches, made.network.observe

    def broken_once(name: str, whole: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            if not failed[name].is_set():
                failed[name].set()
                raise KeyError(name)
            return whole()

        return call

    monkeypatch.setattr(made.network, "breaches", broken_once("breaches", breaches))
    monkeypatch.setattr(made.network, "observe", broken_once("observe", observe))
    await made.leased(WALLED, route="simulated")
    watching = [asyncio.create_task(made.isolation.listen()), asyncio.create_task(made.isolation.run())]
    async with asyncio.timeout(60):
        for once in failed.values():
            await once.wait()
    made.network.break_isolation(WALLED, "rules: too much")
    await made.is_in(WALLED, "quarantined")
    assert not any(task.done() for task in watching)
    for task in watching:
        task.cancel()


@pytest.mark.promise("P22")
async def test_a_breach_is_recorded_whatever_happens_to_the_machine_first(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task gives the machine back at that moment: who broke out is quarantined all the same, and stays so."""
    machine = await made.leased(WALLED, route="simulated")
    made.network.break_isolation(WALLED, "rules: too much")
    commit, overtaken = made.store.commit, 0

    async def late(unit: Unit) -> None:
        nonlocal overtaken
        if overtaken == 0 and any(type(event).__name__ == "IsolationBreached" for event in unit.events):
            overtaken += 1
            await made.hear(release_order(machine))
        await commit(unit)

    monkeypatch.setattr(made.store, "commit", late)
    await made.isolation.compare()
    assert overtaken == 1
    machine = await made.is_in(WALLED, "quarantined")
    assert (machine.quarantine_cause, machine.cures_itself) == ("isolation_breached", False)


@pytest.mark.promise("P22")
async def test_a_breach_that_nobody_was_told_of_is_seen_by_who_cleans(made: Bench) -> None:
    """The network of every lease is looked at once more before it is taken away."""
    machine = await made.leased(WALLED, route="simulated")
    made.network.break_isolation(WALLED, "rules: too much")
    await made.hear(release_order(machine))
    machine = await made.is_in(WALLED, "quarantined")
    assert (machine.quarantine_cause, machine.quarantine_reason) == ("isolation_breached", "rules: too much")
    assert (await made.said()).count("machines.machine.quarantined.v1") == 1


@pytest.mark.promise("P22")
async def test_a_breach_that_nobody_was_told_of_is_seen_by_who_stops(made: Bench) -> None:
    """An operator who withdraws the machine takes no breach away with it: it is the cause, and the network goes."""
    machine = await made.leased(WALLED, route="simulated")
    made.network.break_isolation(WALLED, "rules: too much")
    unit = made.runtime.unit()
    app.operators.quarantine(unit, machine, "ana", "it smells")
    await made.store.commit(unit)
    machine = await made.until(WALLED, lambda machine: machine.quarantine_cause == "isolation_breached")
    assert (machine.state, machine.quarantine_reason) == ("quarantined", "rules: too much")
    await no_network(made)
    assert (await made.load(WALLED)).version == machine.version


@pytest.mark.promise("P4", "P22")
async def test_a_breach_of_a_lease_that_the_record_forgot_is_seen_by_who_cleans(made: Bench) -> None:
    """The store was put back from a backup, and nobody watched when that lease's guest broke out."""
    await made.network.plug(WALLED, epoch=77)
    await made.network.open(WALLED, epoch=77, lease_id="lea_forgotten", route="simulated")
    made.network.break_isolation(WALLED, "rules: too much")
    assert await made.reconcile() == {WALLED: "fence_ahead"}
    machine = await made.is_in(WALLED, "quarantined")
    assert (machine.quarantine_cause, machine.quarantine_reason) == ("isolation_breached", "rules: too much")


async def test_a_machine_that_is_stopped_with_whole_walls_keeps_its_cause(made: Bench) -> None:
    """The control of the breach above."""
    machine, unit = await made.leased(WALLED, route="simulated"), made.runtime.unit()
    app.operators.quarantine(unit, machine, "ana", "it smells")
    await made.store.commit(unit)
    await no_network(made)
    assert (await made.load(WALLED)).quarantine_cause == "operator"


@pytest.mark.promise("P5", "P22")
async def test_a_network_that_nobody_can_look_at_goes_with_its_machine(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at some times first. It leads out as long as it stands, so then it goes unseen."""
    looks = 0

    async def unlisted(*_arguments: Any, **_named: Any) -> Isolation:
        nonlocal looks
        looks += 1
        raise NetworkUnavailable("nft did not answer within 5 s")

    monkeypatch.setattr(work, "STOP_TRIES_SEEN", 1)
    machine, unit = await made.leased(WALLED, route="simulated"), made.runtime.unit()
    monkeypatch.setattr(made.network, "verify", unlisted)
    app.operators.quarantine(unit, machine, "ana", "it smells")
    await made.store.commit(unit)
    await made.worked_off("stop")
    assert (looks, WALLED in made.network.open_networks()) == (2, False)
    assert (await made.load(WALLED)).quarantine_cause == "operator"
    assert made.effects.troubles.condition()["unstopped"] == {}


@pytest.mark.promise("P5", "P6")
async def test_a_network_that_was_left_by_who_gave_up_goes_when_it_is_seen(made: Bench) -> None:
    """A machine out of the pool has none, however long the helper was away."""
    machine, unit = await made.leased(WALLED, route="simulated"), made.runtime.unit()
    app.operators.quarantine(unit, machine, "ana", "it smells")
    await made.store.commit(unit)
    await made.worked_off("stop")
    await made.network.plug(WALLED, epoch=machine.epoch)
    await made.isolation.compare()
    await made.worked_off("stop")
    assert WALLED not in made.network.open_networks()


async def no_network(made: Bench) -> None:
    """The machine's is gone. Asked after every commit."""
    async with asyncio.timeout(60):
        while WALLED in made.network.open_networks():
            made.changed.clear()
            await made.changed.wait()


@pytest.mark.promise("B3", "D6")
@pytest.mark.parametrize("error", [NetworkUnavailable("INetSim does not serve tcp 80"), NetworkRefused("no network")])
async def test_a_route_that_the_host_cannot_open_costs_leases_and_no_machine(
    made: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Another machine would have fared no better: the lease says why, the health does, and the machine stays."""

    async def broken(*_words: object, **_more: object) -> Isolation:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(made.network, "open", broken)
        for attempt in range(FAILURES_MAX):
            version = (await made.load(WALLED)).version
            await made.hear(lease_order(WALLED, operation_id=f"ope_{attempt}", route="simulated"))
            machine = await made.until(WALLED, is_over(version))
            assert machine.state == "ready"
        assert {lease.ending for lease in machine.leases} == {"not_prepared"}
        assert machine.leases[-1].reason.endswith(str(error))
        assert made.effects.troubles.condition()["routes"] == {"simulated": str(error)}
    await made.leased(WALLED, operation_id="ope_well", route="simulated")
    assert made.effects.troubles.condition()["routes"] == {}


@pytest.mark.promise("B3", "D6")
async def test_a_machine_for_which_alone_a_route_fails_is_quarantined(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first failure might be the host's; those after which another machine came onto the route count."""
    made.wishes.put(*(spec(name, routes=("none", "simulated")) for name in (WALLED, OTHER)))
    await made.reconcile()
    await made.is_in(OTHER, "ready")
    opens = made.network.open

    async def broken_for_one(machine_id: str, *words: Any, **more: Any) -> Isolation:
        if machine_id == WALLED:
            raise NetworkRefused("its cable does not answer")
        return await opens(machine_id, *words, **more)

    monkeypatch.setattr(made.network, "open", broken_for_one)
    for attempt in range(1 + FAILURES_MAX):
        version = (await made.load(WALLED)).version
        await made.hear(lease_order(WALLED, operation_id=f"ope_{attempt}", route="simulated"))
        machine = await made.until(WALLED, is_over(version))
        assert (machine.state == "quarantined") == (attempt == FAILURES_MAX)
        await made.leased(OTHER, operation_id=f"ope_other_{attempt}", route="simulated")
        await given_back(made, OTHER)
    assert "its cable does not answer" in machine.quarantine_reason


def is_over(version: int) -> Callable[[Machine], bool]:
    """Whether a lease that began after that version is over, and the machine ready or out of the pool."""
    return lambda machine: machine.version > version and machine.state in ("ready", "quarantined")


@pytest.mark.promise("P11", "G4")
async def test_nothing_that_the_helper_says_keeps_a_guest_alive(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fence stands higher, so the network stays; the guest has ended before anybody asks for its packets."""
    machine = await made.leased(WALLED, route="simulated")
    lives: list[bool] = []

    async def stale(machine_id: str, *, epoch: int, claim: Claim) -> CaptureTaken | None:
        lives.append(any(one.machine_id == machine_id for one in await made.host.observe()))
        made.changed.set()
        raise StaleEpoch(f"epoch {epoch}, claim {claim} is over")

    with monkeypatch.context() as patch:
        patch.setattr(made.network, "seal", stale)
        await made.hear(release_order(machine))
        async with asyncio.timeout(60):
            while not lives:
                made.changed.clear()
                await made.changed.wait()
    assert lives == [False]


@pytest.mark.promise("P11")
async def test_a_record_that_was_told_of_is_told_of_once(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that could not be closed at first is closed later; its record was not lost, and is not told twice."""
    machine = await made.leased(WALLED, route="simulated")
    honest, failures = made.network.close, 0

    async def reluctant(machine_id: str, *, epoch: int, claim: Claim) -> None:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise NetworkUnavailable("not now")
        await honest(machine_id, epoch=epoch, claim=claim)

    monkeypatch.setattr(made.network, "close", reluctant)
    await made.hear(release_order(machine))
    await made.is_in(WALLED, "ready")
    assert failures == 2
    assert (await made.said()).count(STORED) == 1


@pytest.mark.promise("P4", "P3")
@pytest.mark.parametrize("host_fence", [0, 40, 90])
async def test_a_record_below_the_helpers_fence_heals_in_one_go(made: Bench, host_fence: int) -> None:
    """A database that was restored from an older backup: the higher of both fences lifts the epoch, once."""
    await made.network.close(WALLED, epoch=77)
    if host_fence:
        await made.host.destroy(WALLED, epoch=host_fence)
    assert await made.reconcile() == {WALLED: "fence_ahead"}
    machine = await made.is_in(WALLED, "ready")
    assert machine.epoch == max(host_fence, 77) + 1
    topics = [
        row["topic"]
        for row in await made.store.fetch("SELECT topic FROM events WHERE stream = $1 ORDER BY version", machine.id)
    ]
    assert topics[-3:] == ["machine:epoch-repaired", "machine:cleaned", "machine:clean-verified"]
    assert topics.count("machine:epoch-repaired") == 1
    await made.leased(WALLED, operation_id="ope_2", route="simulated")


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
