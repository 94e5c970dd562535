"""Leases on a real store: who drives one, when it is over, and what a repeated order hears."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.machines import app
from services.machines.policy import BEATS_MISSING_S
from services.machines.policy.beats import LOOK_INTERVAL_S
from services.machines.reconcile import lease_watch
from tests.integration.machines_bench import M1, Bench, lease_order, two_ready

pytestmark = pytest.mark.integration


@pytest.fixture
async def made(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """Two ready machines."""
    async with two_ready(database_url, tmp_path) as one:
        yield one


@pytest.mark.promise("P3", "B1a")
async def test_a_lease_whose_driver_fell_silent_is_over(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged by the observer's own clock; a beat in time keeps it."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    leased = await made.leased(M1)
    await made.caught_up()
    for number in range(1, 20):
        await made.beat(leased, number)
        await made.watch.look()
        now += LOOK_INTERVAL_S
    assert (await made.load(M1)).lease_id == leased.lease_id
    for _ in range(int(BEATS_MISSING_S / LOOK_INTERVAL_S) + 1):
        await made.watch.look()
        now += LOOK_INTERVAL_S
    ended = (await made.until(M1, lambda one: one.lease_id is None)).ended(leased.lease_id or "")
    assert ended is not None
    assert ended.ending == "lease_lost"


@pytest.mark.promise("P2", "P3")
async def test_another_driver_takes_the_lease_on_and_a_late_beat_of_the_first_changes_nothing(made: Bench) -> None:
    """The guest runs on under the same epoch; the term only grows; the fifth driver has no lease to drive."""
    leased = await made.leased(M1)
    for term, beat in ((1, 7), (2, 1), (1, 8)):
        await made.beat(leased, beat, term)
        await made.caught_up()
        await made.watch.look()
    machine = await made.load(M1)
    assert machine.lease is not None
    assert (machine.lease.term, machine.epoch, machine.state) == (2, leased.epoch, "active")
    for term in (3, 4, 5):
        await made.beat(leased, 1, term)
        await made.caught_up()
        await made.watch.look()
    ended = (await made.load(M1)).ended(leased.lease_id or "")
    assert ended is not None
    assert ended.ending == "lease_lost"


@pytest.mark.promise("P11")
async def test_past_its_hard_deadline_a_guest_does_not_run_even_without_a_store(made: Bench) -> None:
    """The host keeps the deadline alone, and records it when it can again."""
    await made.leased(M1)
    await made.caught_up()
    await made.watch.look()
    await made.watch.keep_deadlines()
    assert made.host._machines[M1].is_running
    made.clock.shift = timedelta(seconds=660)
    await made.watch.keep_deadlines()
    assert made.host._machines[M1].life_epoch is None


@pytest.mark.promise("P11")
async def test_a_lease_that_just_began_ends_at_its_deadline_though_the_store_went_at_once(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch learns of it soon after it began, and not at the next interval only."""
    monkeypatch.setattr(lease_watch, "LOOK_INTERVAL_S", 3600.0)
    monkeypatch.setattr(lease_watch, "LOOK_GAP_S", 2.0)  # the row is written meanwhile
    watching = asyncio.create_task(made.watch.run())
    try:
        await made.leased(M1)
        await made.caught_up()
        async with asyncio.timeout(30):
            while not made.watch._held:  # noqa: ASYNC110 - a look tells nobody
                await asyncio.sleep(0.05)
    finally:
        watching.cancel()
    made.clock.shift = timedelta(seconds=660)
    await made.watch.keep_deadlines()
    assert made.host._machines[M1].life_epoch is None


@pytest.mark.promise("P15")
async def test_a_refused_order_is_refused_again_whatever_the_machine_is_now(made: Bench) -> None:
    """The task that it was for waits for another order of its own."""
    leased = await made.leased(M1)
    await made.hear(lease_order(M1, operation_id="ope_late"))
    unit = made.runtime.unit()
    app.expire(unit, leased, leased.lease_id or "", "guest_lost", "x")
    await made.store.commit(unit)
    ready = await made.is_in(M1, "ready")
    await made.hear(lease_order(M1, operation_id="ope_late"))
    assert (await made.load(M1)).version == ready.version
    assert (await made.said()).count("machines.machine.lease-refused.v1") == 2
