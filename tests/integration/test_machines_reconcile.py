"""Reconciliation on a real store, rule by rule: whatever differs is repaired or quarantined while everything runs."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import structlog

from services.machines import app
from services.machines.domain.machine import Machine
from services.machines.errors import HypervisorRefused, HypervisorUnavailable, NetworkUnavailable
from services.machines.policy import EVIDENCE_MAX_AGE_S, WORK_MISSING_S
from services.machines.ports import Departure, DomainSeen, GuestAddress
from services.machines.reconcile import Reconciler, Wishes
from services.machines.reconcile.images import NAMED_MAX as IMAGES_NAMED_MAX
from services.machines.reconcile.sight import EMPTY_CONFIRM_S
from services.machines.reconcile.turns import Turns
from services.machines.settings import load_machines
from tests.integration.machines_bench import (
    HOST,
    M1,
    M2,
    Bench,
    bench,
    fence_ahead,
    lease_order,
    release_order,
    spec,
    stand_ready,
    two_ready,
)

pytestmark = pytest.mark.integration


@pytest.fixture
async def made(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """Two ready machines."""
    async with two_ready(database_url, tmp_path) as one:
        yield one


def fault(reconciler: Reconciler) -> str:
    """What the service's health says is wrong."""
    said: str = reconciler.condition()["reconciliation"]["fault"]
    return said


Drift = Callable[[Bench], Awaitable[None]]


async def domain_gone(made: Bench) -> None:
    """Somebody destroyed it."""
    made.host._machines[M1].life_epoch = None


async def domain_running(made: Bench) -> None:
    """Somebody let it run."""
    made.host._machines[M1].is_running = True


async def domain_of_another_epoch(made: Bench) -> None:
    """Somebody restored it behind our back."""
    made.host._machines[M1].life_epoch = 99


async def agent_elsewhere(made: Bench) -> None:
    """Another agent than the proven one would be reached."""
    made.host._machines[M1].address = GuestAddress("127.0.0.1", 1)


def departed(kind: str) -> Drift:
    """What a close look sees."""

    async def drift(made: Bench) -> None:
        honest, is_new = made.host.departures, [True]

        async def departures(machine_id: str, *, epoch: int) -> list[Departure]:
            if machine_id == M1 and is_new.pop() if is_new else False:
                return [Departure(kind, "changed")]  # type: ignore[arg-type]
            return await honest(machine_id, epoch=epoch)

        made.host.departures = departures  # type: ignore[method-assign]

    return drift


async def old_evidence(made: Bench) -> None:
    """Nobody leased it for half a day."""
    made.clock.shift += timedelta(seconds=EVIDENCE_MAX_AGE_S + 1)


async def other_specification(made: Bench) -> None:
    """The operator wants more memory."""
    made.wishes.put(spec(M1, memory_mib=2048), spec(M2))


async def other_image(made: Bench) -> None:
    """The image was rebuilt."""

    async def image_identity(_spec: object) -> str:
        return "instant:another"

    made.host.image_identity = image_identity  # type: ignore[assignment]


READY = {
    "its domain is gone": domain_gone,
    "its domain runs": domain_running,
    "its domain is of another epoch": domain_of_another_epoch,
    "its agent is elsewhere": agent_elsewhere,
    **{
        f"its {kind} changed": departed(kind)
        for kind in ("domain", "process", "processors", "port", "files", "snapshot")
    },
    "its fence stands above the record": fence_ahead,
    "its evidence is too old": old_evidence,
    "its specification changed": other_specification,
    "its image changed": other_image,
}


@pytest.mark.promise("P6", "P7", "B3", "C2")
@pytest.mark.parametrize("what", READY)
async def test_a_ready_machine_that_differs_is_verified_again_before_anybody_gets_it(made: Bench, what: str) -> None:
    """Live, with no restart; the other machine stays as it is."""
    before, other = await made.load(M1), await made.load(M2)
    await READY[what](made)
    await made.reconcile()
    assert (await made.load(M1)).epoch > before.epoch
    after = await made.until(M1, lambda machine: machine.state == "ready" and machine.epoch > before.epoch)
    assert after.verified_version > before.verified_version
    if what not in ("its evidence is too old", "its image changed"):
        assert (await made.load(M2)).version == other.version


async def guest_paused(made: Bench) -> None:
    """Somebody stopped its processors, or its disk is full."""
    made.host._machines[M1].is_running = False


ACTIVE = {
    "its domain stands still": guest_paused,
    **{
        name: READY[name] for name in ("its domain is gone", "its domain is of another epoch", "its agent is elsewhere")
    },
}


@pytest.mark.promise("P6", "B1a", "G4")
@pytest.mark.parametrize("what", ACTIVE)
async def test_a_lease_whose_guest_is_not_the_recorded_one_is_over_and_the_machine_cleaned(
    made: Bench, what: str
) -> None:
    """Its task hears of it."""
    leased = await made.leased(M1)
    await ACTIVE[what](made)
    assert M1 in await made.reconcile()
    cleaned = await made.is_in(M1, "ready")
    ended = cleaned.ended(leased.lease_id or "")
    assert ended is not None
    assert ended.ending == "guest_lost"
    assert "machines.machine.lease-expired.v1" in await made.said()


@pytest.mark.promise("P6", "P10")
@pytest.mark.parametrize("order", ["quarantine", "retire"])
async def test_a_machine_that_must_not_run_and_was_started_is_stopped(made: Bench, order: str) -> None:
    """By whoever started it: unexpected power is taken away, and the record stays as it is."""
    machine, unit = await made.load(M1), made.runtime.unit()
    app.operators.quarantine(unit, machine, "ana", "it smells")
    if order == "retire":
        app.operators.retire(unit, machine, "ana", "replaced")
    await made.store.commit(unit)
    await gone_from_host(made)
    made.host.put(M1, machine.epoch, GuestAddress("127.0.0.1", 9))
    assert await made.reconcile() == {M1: "runs"}
    await gone_from_host(made)
    assert (await made.load(M1)).version == machine.version


async def test_a_machine_that_an_operator_holds_is_not_built_again_by_a_pass(made: Bench) -> None:
    """The cure is due, and finds it held; why is shown."""
    machine, unit = await made.load(M1), made.runtime.unit()
    app.quarantine(unit, machine, "never verified clean", "failures")
    await made.store.commit(unit)
    unit = made.runtime.unit()
    app.operators.quarantine(unit, machine, "ana", "its disk is wanted")
    await made.store.commit(unit)
    await gone_from_host(made)
    made.clock.shift = timedelta(hours=3)
    assert await made.reconcile() == {}
    held = await made.load(M1)
    assert (held.state, held.epoch, held.quarantine_cause) == ("quarantined", machine.epoch, "operator")
    await made.caught_up()
    (row,) = await made.store.fetch("SELECT state, cause, why FROM fleet WHERE machine_id = $1", M1)
    assert tuple(row) == ("quarantined", "operator", "its disk is wanted")


@pytest.mark.promise("P6", "P10")
async def test_a_machine_that_cannot_be_stopped_keeps_no_other_waiting(made: Bench) -> None:
    """However few are taken on in a pass: the next begins behind them."""
    made.reconciler._to_act_on = Turns(1)
    machine, unit = await made.load(M1), made.runtime.unit()
    app.operators.quarantine(unit, machine, "ana", "it smells")
    app.operators.retire(unit, machine, "ana", "replaced")
    await made.store.commit(unit)
    await gone_from_host(made)
    made.host.put(M1, machine.epoch, GuestAddress("127.0.0.1", 9))
    made.host.destroy = AsyncMock(side_effect=HypervisorUnavailable("it does not end"))  # type: ignore[method-assign]
    made.host._machines[M2].life_epoch = None
    assert await made.reconcile() == {}
    assert list(await made.reconcile()) == [M2]


async def gone_from_host(made: Bench) -> None:
    """Nothing of it runs."""
    async with asyncio.timeout(60):
        while made.host._machines[M1].life_epoch is not None:
            await made.host.changed()


@pytest.mark.promise("P11")
async def test_a_deadline_whose_timer_was_lost_is_kept_by_the_pass(made: Bench) -> None:
    """The hard one of a lease."""
    leased = await made.leased(M1)
    await made.store.fetch("DELETE FROM work WHERE kind = 'expire'")
    made.clock.shift = timedelta(seconds=601)
    assert (await made.reconcile())[M1] == "overdue"
    ended = (await made.is_in(M1, "ready")).ended(leased.lease_id or "")
    assert ended is not None
    assert ended.ending == "deadline"


@pytest.mark.promise("P3", "B3")
async def test_work_that_was_lost_is_asked_for_again(made: Bench) -> None:
    """A machine is never stuck because a row is gone."""
    made.worker._runners = {}
    await made.hear(lease_order(M1))
    await made.store.fetch("DELETE FROM work")
    machine = await made.is_in(M1, "preparing")
    unit = made.runtime.unit()
    machine.expire_lease(machine.lease_id or "", "not_prepared", "x", unit.at)
    unit.save(machine)
    await made.store.commit(unit)
    assert await made.reconcile() == {}
    made.clock.shift = timedelta(seconds=WORK_MISSING_S + 1)
    assert await made.reconcile() == {M1: "work_lost"}
    assert [row["kind"] for row in await made.store.fetch("SELECT kind FROM work")] == ["clean@local"]
    assert await made.reconcile() == {}


def is_over(version: int) -> Callable[[Machine], bool]:
    """Whether a lease that began after that version is over, and the machine ready or out of the pool."""
    return lambda machine: machine.version > version and machine.state in ("ready", "quarantined")


@pytest.mark.promise("B3", "D6")
async def test_a_machine_that_no_lease_can_be_prepared_on_leaves_the_pool_with_the_third(made: Bench) -> None:
    """It burns no fourth attempt, stands still, and says why; the rows say so too."""

    async def resume(*_of: object, **_by: object) -> None:
        raise HypervisorRefused("it does not resume")

    made.host.resume = resume  # type: ignore[method-assign]
    for attempt, ends_as in enumerate(("ready", "ready", "quarantined")):
        before = await made.load(M1)
        await made.hear(lease_order(M1, operation_id=f"ope_{attempt}"))
        machine = await made.until(M1, is_over(before.version))
        assert machine.state == ends_as
    assert {lease.ending for lease in machine.leases} == {"not_prepared"}
    assert machine.quarantine_reason == (
        "could not be prepared for 3 leases in a row: the guest could not be prepared: it does not resume"
    )
    await made.caught_up()
    (row,) = await made.store.fetch("SELECT state, cause, why FROM fleet WHERE machine_id = $1", M1)
    assert tuple(row) == ("quarantined", "failures", machine.quarantine_reason)


@pytest.mark.promise("P7")
async def test_a_host_that_cannot_be_seen_changes_nothing(made: Bench) -> None:
    """Unable to observe is not off."""

    async def observe() -> list[DomainSeen]:
        raise HypervisorUnavailable("libvirt: no daemon")

    leased, honest = await made.leased(M1), made.host.observe
    made.host.observe = observe  # type: ignore[method-assign]
    assert await made.reconcile() == {}
    assert fault(made.reconciler) == "the hypervisor was not seen: libvirt: no daemon"
    made.host.observe = honest  # type: ignore[method-assign]
    assert (await made.load(M1)).lease_id == leased.lease_id
    assert await made.reconcile() == {}
    assert fault(made.reconciler) == ""


@pytest.mark.promise("P7")
async def test_a_network_helper_that_cannot_be_seen_is_told_of(made: Bench) -> None:
    """Nothing else changes: a helper that is away refuses nothing either."""
    honest = made.network.fences

    async def fences() -> Mapping[str, int]:
        raise NetworkUnavailable("nobody listens")

    made.network.fences = fences  # type: ignore[method-assign]
    assert await made.reconcile() == {}
    assert fault(made.reconciler) == "the networks were not seen: nobody listens"
    made.network.fences = honest  # type: ignore[method-assign]
    assert await made.reconcile() == {}
    assert fault(made.reconciler) == ""


@pytest.mark.promise("B3", "D6", "G9")
async def test_whatever_is_wrong_with_the_machines_file_what_differs_is_dealt_with(made: Bench, tmp_path: Path) -> None:
    """The file's fault is told of; the machines are looked at all the same."""
    file = tmp_path / "fleet.toml"
    file.write_bytes(b"# caf\xe9\n")
    os.utime(file, (0, 0))
    reconciler = Reconciler(made.runtime, made.host, made.network, Wishes(file, partial(load_machines, host=HOST)), 5.0)
    await domain_gone(made)
    assert (await reconciler.pass_once()).found == {M1: "domain_gone"}
    assert fault(reconciler) == f"{file}: line 1: the byte 0xe9 is not UTF-8; save the file as UTF-8"


@pytest.mark.promise("G3")
async def test_an_image_that_is_missing_is_logged_once_and_told_of_as_long_as_it_is(made: Bench) -> None:
    """And built from as soon as it is there."""
    images = [f"absent{number}" for number in range(IMAGES_NAMED_MAX + 2)]
    made.host.absent_images.update(images)
    made.wishes.put(*(spec(f"n{number}", image=image) for number, image in enumerate(images)))
    with structlog.testing.capture_logs() as logs:
        assert [await made.reconcile() for _ in range(3)] == [{}, {}, {}]
    assert [entry["image"] for entry in logs if entry["event"] == "image_was_missing"] == images
    told = [f"there is no built image {name}; build the image, or name another in the machines file" for name in images]
    assert fault(made.reconciler) == "; ".join([*told[:IMAGES_NAMED_MAX], "and 2 more images are missing"])
    made.host.absent_images.clear()
    with structlog.testing.capture_logs() as logs:
        assert [await made.reconcile() for _ in range(2)] == [{}, {}]
    assert [entry["image"] for entry in logs if entry["event"] == "image_was_found"] == images
    assert fault(made.reconciler) == ""
    await made.is_in("n0", "ready")


@pytest.mark.promise("P7")
async def test_a_listing_that_is_suddenly_empty_is_believed_when_a_second_one_agrees(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that has just started may not have found its domains yet."""
    for machine in made.host._machines.values():
        machine.life_epoch = None
    assert await made.reconcile() == {}
    monkeypatch.setattr("services.machines.reconcile.sight.EMPTY_CONFIRM_S", 0.0)
    assert await made.reconcile() == {M1: "domain_gone", M2: "domain_gone"}
    assert EMPTY_CONFIRM_S > 0


@pytest.mark.promise("P5", "P6")
async def test_only_domains_that_bear_our_prefix_and_no_record_knows_are_destroyed(made: Bench) -> None:
    """Any other domain is never touched."""
    discarded: list[str] = []
    honest = made.host.observe

    async def observe() -> list[DomainSeen]:
        strangers = [DomainSeen("ours-stray", "stray", 3, "running"), DomainSeen("theirs", None, None, "running")]
        return [*await honest(), *strangers]

    async def discard(name: str) -> None:
        discarded.append(name)

    made.host.observe, made.host.discard = observe, discard  # type: ignore[method-assign]
    await made.reconcile()
    assert discarded == ["ours-stray"]


@pytest.mark.promise("P6")
async def test_the_same_divergence_three_times_is_quarantine_and_not_a_hot_loop(made: Bench) -> None:
    """Its files stay to be looked at, and it does not run."""
    for _ in range(3):
        await domain_running(made)
        await made.reconcile()
        await made.until(M1, lambda machine: machine.state in ("ready", "quarantined"))
    machine = await made.load(M1)
    assert (machine.state, machine.quarantine_cause) == ("quarantined", "divergence")
    await gone_from_host(made)


@pytest.mark.promise("P7", "P1")
async def test_a_machine_of_another_host_is_left_to_that_host(made: Bench) -> None:
    """Where two hosts share a store: here its guest would seem gone and its network lost, and it would be called clean.

    The control: a machine of this host is built, leased and cleaned meanwhile.
    """
    building, standing = (spec(name, host="other", routes=("none", "simulated")) for name in ("far-1", "far-2"))
    unit = made.runtime.unit()
    app.settle(unit, None, building, "an image")
    machine = Machine.register(standing, unit.at)
    machine.start_provisioning("new", unit.at, "an image")
    machine.complete_provisioning(acceleration="tcg", image_identity="an image", evidence={}, at=unit.at)
    machine.verify_clean({}, unit.at)
    app.record(unit, machine)
    await made.store.commit(unit)
    leased = await made.leased(M1)
    await made.hear(release_order(leased))
    await made.is_in(M1, "ready")
    await made.caught_up()
    await made.reconcile()
    await made.isolation.compare()
    assert [(await made.load(name)).state for name in ("far-1", "far-2")] == ["provisioning", "ready"]
    assert [row["kind"] for row in await made.store.fetch("SELECT kind FROM work WHERE kind LIKE '%@%'")] == [
        "provision@other"
    ]


@pytest.mark.promise("P6")
async def test_a_machine_that_cannot_be_looked_at_is_verified_again_and_the_pass_goes_on(made: Bench) -> None:
    """A refusal is a finding about that machine, and no end of the others' pass."""
    honest = made.host.departures

    async def departures(machine_id: str, *, epoch: int) -> list[Departure]:
        if machine_id == M1:
            raise HypervisorRefused("it has no files")
        return await honest(machine_id, epoch=epoch)

    made.host.departures = departures  # type: ignore[method-assign]
    assert await made.reconcile() == {M1: "refused"}


@pytest.mark.promise("P1", "P6")
async def test_any_number_of_reconcilers_may_judge_at_once(made: Bench) -> None:
    """Each divergence is recorded once, whoever is first."""
    others = [Reconciler(made.runtime, made.host, made.network, made.wishes, 5.0) for _ in range(4)]
    await domain_running(made)
    await made.caught_up()
    version = (await made.load(M1)).version
    await asyncio.gather(*(one.pass_once() for one in (made.reconciler, *others)))
    machine = await made.is_in(M1, "ready")
    names = [
        row["topic"]
        for row in await made.store.fetch(
            "SELECT topic FROM events WHERE stream = $1 AND version > $2 ORDER BY version", machine.id, version
        )
    ]
    assert names == ["machine:drift-seen", "machine:cleaned", "machine:clean-verified"]


async def test_a_pass_over_machines_that_are_as_recorded_loads_none_of_them(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cost is that of a few queries, however many machines there are."""
    async with bench(database_url, tmp_path) as made:
        await stand_ready(made, 500)

        async def load(_kind: object, stream: object) -> None:
            pytest.fail(f"{stream} was loaded")

        monkeypatch.setattr(made.store, "load", load)
        assert await made.reconcile() == {}
        assert made.reconciler.last.machines == 500


@pytest.mark.promise("G9")
async def test_a_file_that_names_fewer_machines_takes_none_away(made: Bench) -> None:
    """An empty one neither."""
    made.wishes.put()
    assert await made.reconcile() == {}
    assert [(await made.load(name)).state for name in (M1, M2)] == ["ready", "ready"]
    await made.leased(M1)


@pytest.mark.promise("B3")
async def test_a_new_specification_of_a_leased_machine_is_applied_when_it_is_next_clean(made: Bench) -> None:
    """Remembered in the record, not in a file."""
    leased = await made.leased(M1)
    made.wishes.put(spec(M1, memory_mib=2048), spec(M2))
    await made.reconcile()
    made.wishes.put()
    machine = await made.load(M1)
    assert (machine.state, machine.spec.memory_mib) == ("active", 1024)
    unit = made.runtime.unit()
    machine.release(leased.lease_id or "", unit.at)
    app.record(unit, machine)
    await made.store.commit(unit)
    rebuilt = await made.until(M1, lambda one: one.state == "ready" and one.spec.memory_mib == 2048)
    assert rebuilt.rebuilds == 0
