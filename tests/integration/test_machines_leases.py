"""Leases on a real store: who drives one, when it is over, and what a repeated order hears."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from services.chassis import run
from services.chassis.bus import Consumer
from services.chassis.errors import TransientError
from services.chassis.run import Runtime, Service
from services.chassis.store import Store, StoreUnavailable
from services.machines import app
from services.machines.adapters.host_fence import HostFence
from services.machines.errors import StaleEpoch
from services.machines.main import keep_deadlines
from services.machines.policy import BEATS_MISSING_S
from services.machines.policy.beats import LOOK_INTERVAL_S
from services.machines.reconcile import Deadlines, LeaseWatch, lease_watch
from services.machines.reconcile.deadlines import FILE, Held
from services.machines.settings import MachinesSettings
from tests.integration.machines_bench import M1, M2, Bench, client_ca_pem, lease_order, two_ready

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
    # The observer's alone: the event loop's own timers go on.
    monkeypatch.setattr(lease_watch, "time", SimpleNamespace(monotonic=lambda: now))
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
    await made.deadlines.keep()
    assert made.host._machines[M1].is_running
    made.clock.shift = timedelta(seconds=660)
    await made.deadlines.keep()
    assert made.host._machines[M1].life_epoch is None


@pytest.mark.promise("P11")
async def test_a_process_that_starts_without_a_store_keeps_the_deadlines_that_the_last_one_knew(
    made: Bench, tmp_path: Path
) -> None:
    """Only those of leases in force; afterwards there is nothing left to keep."""
    await made.leased(M1)
    other = await made.leased(M2, operation_id="ope_2", hold_s=6000)
    await made.caught_up()
    await made.watch.look()
    made.clock.shift = timedelta(seconds=660)
    after = Deadlines(made.host, made.clock, tmp_path / FILE)
    assert made.host._machines[M1].is_running
    await after.keep()
    assert [made.host._machines[name].is_running for name in (M1, M2)] == [False, True]
    assert list(Deadlines(made.host, made.clock, tmp_path / FILE).held) == [other.lease_id]
    made.clock.shift = timedelta(seconds=6600)
    await asyncio.wait_for(after.keep_all(), 30)
    assert not made.host._machines[M2].is_running


@pytest.mark.promise("P11")
async def test_a_guest_that_cannot_be_ended_keeps_no_other_running(made: Bench, tmp_path: Path) -> None:
    """Whatever the host answers: what was not ended is tried again, what had moved on is forgotten."""
    past = datetime(2001, 1, 1, tzinfo=UTC)
    held = {f"lea_{name}": Held(machine_id=name, epoch=7, term=1, hard_deadline_at=past) for name in ("m1", "m2", "m3")}
    host = AsyncMock()
    host.halt.side_effect = [OSError("too many open files"), StaleEpoch("the host acted for 8"), None]
    deadlines = Deadlines(host, made.clock, tmp_path / "of the test.json")
    deadlines.see(held)
    await deadlines.keep()
    assert [call.args for call in host.halt.await_args_list] == [("m1",), ("m2",), ("m3",)]
    assert list(deadlines.held) == ["lea_m1"]


@pytest.mark.promise("P11")
async def test_the_service_finds_the_file_where_it_left_it(made: Bench, tmp_path: Path) -> None:
    """As its settings say; who ends the guest raises the host's fence for it."""
    overdue = Held(machine_id=M1, epoch=7, term=1, hard_deadline_at=datetime(2001, 1, 1, tzinfo=UTC))
    Deadlines(made.host, made.clock, tmp_path / FILE).see({"lea_1": overdue})
    (tmp_path / "ca.pem").write_text(client_ca_pem(), encoding="ascii")
    settings = MachinesSettings.model_construct(  # type: ignore[call-arg]
        hypervisor="instant",
        instant_fences_dir=tmp_path / "others",
        guest_client_ca_file=tmp_path / "ca.pem",
        scratch_dir=tmp_path,
    )
    await asyncio.wait_for(keep_deadlines(settings), 30)
    assert HostFence(tmp_path / "others" / M1).highest() == overdue.epoch


@pytest.mark.promise("P11")
@pytest.mark.parametrize("content", ["{", '{"lea_1": {"machine_id": 7}}'])
async def test_a_file_of_leases_that_cannot_be_read_is_told_and_keeps_nobody_from_starting(
    made: Bench, tmp_path: Path, content: str
) -> None:
    """What is in force is written anew at the first look."""
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    with capture_logs() as said:
        after = Deadlines(made.host, made.clock, tmp_path / FILE)
    assert [entry["event"] for entry in said] == ["held_leases_cannot_be_read"]
    leased = await made.leased(M1)
    await made.caught_up()
    await LeaseWatch(made.runtime, after).look()
    assert list(Deadlines(made.host, made.clock, tmp_path / FILE).held) == [leased.lease_id]


@pytest.mark.promise("P11")
async def test_the_service_keeps_deadlines_while_it_waits_for_its_store_and_for_the_broker(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its start until it keeps them itself; a failure of it keeps nobody from starting."""
    monkeypatch.setattr(run, "START_RETRY_S", 0.01)
    keeping, waits = asyncio.Event(), []

    async def keep() -> None:
        keeping.set()
        try:
            await asyncio.Event().wait()
        finally:
            keeping.clear()
            raise RuntimeError("it failed")

    async def opened(url: str, schema: str, opens: Callable[[str, str], Awaitable[Store]] = Store.open) -> Store:
        waits.append(("store", keeping.is_set()))
        if not keeping.is_set():
            raise StoreUnavailable("it is away")
        return await opens(url, schema)

    async def started(_consumer: Consumer) -> None:
        waits.append(("broker", keeping.is_set()))
        if len(waits) < 5:
            raise TransientError("it is away")

    async def own() -> None:
        waits.append(("own", keeping.is_set()))
        stop.set()

    async def composed(_runtime: Runtime) -> Service:
        return Service(background=(own,))

    stop = asyncio.Event()
    monkeypatch.setattr(Store, "open", opened)
    monkeypatch.setattr(Consumer, "start", started)
    settings = SimpleNamespace(
        database_url=database_url, blob_dir=tmp_path, amqp_url="amqp://127.0.0.1:1", host="h", prefetch=1,
        gateway_secret="", http_host="127.0.0.1", http_port=0,
    )  # fmt: skip
    async with asyncio.timeout(60):
        await run.serve("machines", settings, composed, until_served=keep, stop=stop)  # type: ignore[arg-type]
    assert waits == [("store", False), ("store", True), *[("broker", True)] * 3, ("own", False)]


@pytest.mark.promise("P11")
async def test_a_lease_that_just_began_ends_at_its_deadline_though_the_store_went_at_once(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch learns of it soon after it began, and not at the next interval only."""
    monkeypatch.setattr(lease_watch, "LOOK_INTERVAL_S", 3600.0)
    look = made.watch.look

    async def at_rows_of_now() -> None:
        await made.caught_up()
        await look()

    monkeypatch.setattr(made.watch, "look", at_rows_of_now)
    watching = asyncio.create_task(made.watch.run())
    try:
        await made.leased(M1)
        await made.caught_up()
        async with asyncio.timeout(30):
            while not made.deadlines.held:  # noqa: ASYNC110 - a look tells nobody
                await asyncio.sleep(0.05)
    finally:
        watching.cancel()
    made.clock.shift = timedelta(seconds=660)
    await made.deadlines.keep()
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
