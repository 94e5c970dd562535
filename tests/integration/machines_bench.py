"""The machines service on a real store and a fake host: its worker, projector, reconciler and watch, step by step."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from cryptography import x509

from contracts.machines import GuestEndpoint
from contracts.plugins import LeaseBeat
from contracts.scheduler import LeaseMachine, ReleaseMachine
from contracts.submission import Route
from services.chassis.blobs import BlobStore
from services.chassis.clock import SystemClock
from services.chassis.migrations import migrate
from services.chassis.projections import Projector
from services.chassis.run import Runtime
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Cause
from services.chassis.work import Worker
from services.machines.adapters import machine_authority
from services.machines.adapters.authorities import Authorities
from services.machines.adapters.instant import InstantFleet
from services.machines.adapters.memory_network import MemoryNetwork
from services.machines.announcements import announce
from services.machines.domain.fence import Fence
from services.machines.domain.machine import Machine
from services.machines.domain.spec import MachineSpec
from services.machines.effects import Effects
from services.machines.handlers import HANDLERS
from services.machines.isolation import IsolationWatch
from services.machines.main import of_host
from services.machines.ports import GuestAddress
from services.machines.projections import FLEET, MIGRATIONS
from services.machines.reconcile import Deadlines, LeaseWatch, Reconciler, Wishes
from services.machines.reconcile.deadlines import FILE

HOST = "local"
M1, M2 = "m1", "m2"
TASK = "tsk_" + "1" * 32
DEADLINE_S = 60.0


class ShiftedClock(SystemClock):
    """The system's clock, moved."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = timedelta()

    def now(self) -> datetime:
        """This instant, moved."""
        return super().now() + self.shift


def spec(name: str, **changed: Any) -> MachineSpec:
    """A machine of this host."""
    fields = {"machine_id": name, "host": HOST, "profile": "linux", "platform": "linux", "image": "linux"}
    return MachineSpec.model_validate({**fields, **changed})


class Wished(Wishes):
    """A file of machines that the test writes to."""

    def __init__(self, *specs: MachineSpec) -> None:
        super().__init__(Path("/nowhere"), lambda _path: [])
        self.put(*specs)

    def put(self, *specs: MachineSpec) -> None:
        """The file says this."""
        self._load = lambda _path: list(specs)
        self._take(uuid4().hex)

    def refresh(self) -> bool:
        """It is as the test left it."""
        return True


@dataclass
class Bench:
    """One process of the service, without a bus: what it says is read in its outbox."""

    store: Store
    runtime: Runtime
    clock: ShiftedClock
    host: InstantFleet
    effects: Effects
    wishes: Wished
    reconciler: Reconciler
    deadlines: Deadlines
    watch: LeaseWatch
    worker: Worker
    network: MemoryNetwork
    isolation: IsolationWatch
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def load(self, name: str) -> Machine:
        """The machine as its events say."""
        machine = await self.store.load(Machine, Machine.stream(name))
        assert machine is not None
        return machine

    async def until(self, name: str, check: Callable[[Machine], bool]) -> Machine:
        """The machine, once that is so. Asked after every commit."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                self.changed.clear()
                machine = await self.store.load(Machine, Machine.stream(name))
                if machine is not None and check(machine):
                    return machine
                await self.changed.wait()

    async def is_in(self, name: str, state: str) -> Machine:
        """The machine, once it is in that state."""
        return await self.until(name, lambda machine: machine.state == state)

    async def caught_up(self) -> None:
        """The rows say what the events say."""
        projector = Projector(self.store, FLEET)
        while True:
            count, is_behind = await projector.advance()
            if not count and not is_behind:
                return

    async def reconcile(self) -> dict[str, str]:
        """One pass over rows that are up to date; what it dealt with. Then the clock is the system's again."""
        await self.caught_up()
        found = (await self.reconciler.pass_once()).found
        if self.clock.shift:
            await self.store.fetch("UPDATE work SET due_at = due_at - $1::interval", self.clock.shift)
            self.clock.shift = timedelta()
            self.worker.wake()
        return found

    async def worked_off(self, kind: str) -> None:
        """No work of that kind is left on this host. Its end is no commit, so it is asked for until it is so."""
        async with asyncio.timeout(DEADLINE_S):
            query = "SELECT FROM work WHERE kind = $1"
            while await self.store.fetch(query, f"{kind}@{HOST}"):  # noqa: ASYNC110 - nothing tells of the end of work
                await asyncio.sleep(0.05)

    async def hear(self, message: Any, message_id: str | None = None) -> None:
        """The message is handled once."""
        unit = self.runtime.unit()
        unit.cause = Cause(message_id or f"msg_{uuid4().hex}")
        handler: Handler = HANDLERS[type(message)]
        await handler(message, unit, self.store)
        await self.store.commit(unit)

    async def leased(
        self, name: str, *, operation_id: str = "ope_1", hold_s: int = 600, route: Route = "none"
    ) -> Machine:
        """The machine, leased and attested."""
        await self.hear(lease_order(name, operation_id=operation_id, hold_s=hold_s, route=route))
        return await self.is_in(name, "active")

    async def beat(self, machine: Machine, beat: int, term: int = 1) -> None:
        """The driver of its lease was heard."""
        lease = machine.lease
        assert lease is not None
        await self.hear(LeaseBeat(task_id=TASK, lease=lease.model_copy(update={"term": term}), beat=beat))

    async def said(self) -> list[str]:
        """Routing keys of everything that was said, in order."""
        return [row["routing_key"] for row in await self.store.fetch("SELECT routing_key FROM outbox ORDER BY id")]


async def stand_ready(made: Bench, count: int) -> None:
    """So many machines are wanted, recorded as ready, and stand on the fake host; nothing of them was ever built."""
    endpoint = GuestEndpoint(scheme="tcp", host="127.0.0.1", port=9, server_identity="x", ca_pem="-")
    specs = [spec(f"m{number}") for number in range(count)]
    made.wishes.put(*specs)
    for start in range(0, count, 200):
        unit = made.runtime.unit()
        for wanted in specs[start : start + 200]:
            machine = Machine.register(wanted, unit.at)
            identity = await made.host.image_identity(wanted)
            machine.start_provisioning("new", unit.at, identity)
            machine.complete_provisioning(acceleration="none", image_identity=identity, evidence={}, at=unit.at)
            machine.verify_clean({}, unit.at, endpoint)
            unit.save(machine)
            made.host.put(wanted.machine_id, machine.epoch, GuestAddress(endpoint.host, endpoint.port))
        await made.store.commit(unit)


async def fence_ahead(made: Bench) -> None:
    """The store was restored from a backup."""
    made.host._machines[M1].fence = Fence(77)
    (made.host._fences_dir / M1 / "fence").write_text("77")  # type: ignore[operator]


def lease_order(name: str, *, operation_id: str = "ope_1", hold_s: int = 600, route: Route = "none") -> LeaseMachine:
    """An order to lease it."""
    return LeaseMachine(operation_id=operation_id, task_id=TASK, machine_id=name, host=HOST, route=route, hold_s=hold_s)


def release_order(machine: Machine) -> ReleaseMachine:
    """An order to take its lease back."""
    return ReleaseMachine(
        task_id=TASK,
        machine_id=machine.machine_id,
        host=HOST,
        lease_id=machine.lease_id or "",
        epoch=machine.epoch,
    )


@contextlib.asynccontextmanager
async def bench(database_url: str, directory: Path, *specs: MachineSpec) -> AsyncIterator[Bench]:
    """The service's parts over that database, machines of those specifications wanted; its worker runs."""
    store = await Store.open(database_url, "machines")
    await migrate(store, MIGRATIONS)
    clock = ShiftedClock()
    settings = SimpleNamespace(host=HOST)
    runtime = Runtime(settings, store, BlobStore(directory / "blobs"), clock, announce)
    host = InstantFleet(client_ca_pem=client_ca_pem(), fences_dir=directory / "fences")
    wishes = Wished(*specs)
    network = MemoryNetwork()
    effects = Effects(host, host, Authorities(store), network)
    deadlines = Deadlines(host, clock, directory / FILE)
    made = Bench(
        store=store,
        runtime=runtime,
        clock=clock,
        host=host,
        effects=effects,
        wishes=wishes,
        network=network,
        reconciler=Reconciler(runtime, host, network, wishes, 5.0),
        deadlines=deadlines,
        watch=LeaseWatch(runtime, deadlines),
        isolation=IsolationWatch(runtime, network, 5.0),
        worker=Worker(
            service="machines",
            store=store,
            clock=clock,
            announce=announce,
            runners={runner.kind: runner for runner in of_host(effects.runners(), HOST)},
        ),
    )
    store.on_commit(lambda _unit: made.changed.set())
    work = asyncio.create_task(made.worker.run())
    try:
        yield made
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await host.close()
        await store.close()


@contextlib.asynccontextmanager
async def two_ready(database_url: str, directory: Path) -> AsyncIterator[Bench]:
    """The same with two machines that are ready."""
    async with bench(database_url, directory, spec(M1), spec(M2)) as made:
        await made.reconcile()
        await made.is_in(M1, "ready")
        await made.is_in(M2, "ready")
        assert await made.reconcile() == {}
        yield made


def client_ca_pem() -> str:
    """Some authority's certificate."""
    pem = machine_authority.create("nobody", client_ca_pem="").ca_cert_pem
    assert x509.load_pem_x509_certificate(pem.encode())
    return pem
