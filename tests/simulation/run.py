"""One seed: a world is made, services run in it, faults happen, faults stop, and everything has to come to rest."""

import asyncio
import gc
import hashlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import aio_pika
import structlog

from contracts.blobs import BlobRef
from contracts.scheduler import TERMINAL_STATES
from contracts.submission import AnalysisRequest
from services.chassis.errors import TransientError
from services.intake.adapters.tables import Tables
from services.intake.app import decide
from services.machines.domain.spec import MachineSpec
from tests.simulation.blobs import SimBlobs, SimSandbox
from tests.simulation.broker import SimBroker, connector
from tests.simulation.database import Database, Lock, Pool, Wire
from tests.simulation.hypervisor import SimWorld
from tests.simulation.loop import PROCESS, Process, SimLoop, virtual_time
from tests.simulation.services import BEGINNING, SERVICES, SimService, Surroundings, empty_database, replaced
from tests.simulation.statements import handwritten

STEPS_MAX = 400_000
FAULTS_END_S = 150.0
LIMIT_S = 1500.0
REST_SEEN_STEPS = 256


@dataclass
class Outcome:
    """What a seed came to."""

    seed: int
    trace: int
    steps: int
    virtual_s: float
    counts: Counter[str]
    violations: list[str]


@dataclass
class Client:
    """Somebody who asks for an analysis, and what became of it."""

    name: str
    at_s: float
    request: AnalysisRequest
    task_id: str = ""
    is_accepted: bool = False
    is_cancelled: bool = False


class SimWire(Wire):
    """A process's way to its database."""

    def __init__(self, sim: "Simulation", process: Process, database: Database) -> None:
        self._sim = sim
        self._process = process
        self._database = database

    async def there(self) -> None:
        """The request arrives."""
        draw = self._sim.rng.random()
        await asyncio.sleep(0.0 if draw < 0.7 else (draw - 0.7) * 0.02)
        if self._sim.is_cut_off(self._process):
            raise ConnectionResetError("the database cannot be reached")

    async def back(self, *, is_write: bool) -> None:
        """The reply arrives."""
        sim = self._sim
        if is_write and sim.ambiguous_rate and sim.rng.random() < sim.ambiguous_rate:
            sim.counts["ambiguous_commit"] += 1
            raise ConnectionResetError("the connection was lost before the reply")
        await asyncio.sleep(0)


class Simulation:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)  # noqa: S311 - it has to be the same again
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.loop = SimLoop(self.rng)
        self.broker = SimBroker(self.loop, self.rng, self.counts)
        self.world = SimWorld(self.loop, self.rng, self.counts)
        self.blob_content: dict[str, bytes] = {}
        self.blobs = SimBlobs(self.blob_content, self.rng, self.counts)
        self.sandbox = SimSandbox(self.rng, self.counts)
        self.scratch_dir = Path(tempfile.mkdtemp(prefix="sim-", dir=_fast_directory()))
        self.db_offset_s = 0.0
        self.store_cut: set[int] = set()
        self.store_is_down = False
        self.ambiguous_rate = 0.0
        self.databases = {name: Database(name, empty_database(name), self._db_now) for name in SERVICES}
        self.locks = {name: Lock(self.loop.create_future) for name in SERVICES}
        specs = [
            MachineSpec(machine_id=f"m{number}", host="local", profile="linux", platform="linux", image="linux")
            for number in range(1, 2 + self.rng.randrange(2))
        ]
        self.around = Surroundings(
            self.loop,
            self.rng,
            self.counts,
            broker=self.broker,
            world=self.world,
            blobs=self.blobs,
            sandbox=self.sandbox,
            specs=specs,
            scratch_dir=self.scratch_dir,
        )
        self.live: dict[str, SimService] = {}
        self.clients: list[Client] = []
        self._processes = 0

    def _db_now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.loop.now + self.db_offset_s)

    def is_cut_off(self, process: Process) -> bool:
        """Whether the process cannot reach its database now."""
        return self.store_is_down or process.number in self.store_cut

    def start_service(self, name: str) -> SimService:
        """A fresh process of the service runs."""
        self._processes += 1
        process = Process(self.loop, name, self._processes)
        pool = Pool(self.databases[name], SimWire(self, process, self.databases[name]), handwritten(), self.locks[name])
        service = SimService(name, process, pool, self.around)
        process.on_death.append(pool.cut)
        self.live[name] = service
        process.spawn(self._attended(service))
        return service

    async def _attended(self, service: SimService) -> None:
        try:
            await service.main()
        except Exception as error:  # noqa: BLE001 - the service ends, and is started again
            self.counts["service_ended"] += 1
            self.counts[f"service_ended {service.name} {error!r}"] += 1
        self.loop.world.context.copy().run(self.loop.call_soon, self.crash, service)

    def crash(self, service: SimService) -> None:
        """The process is gone; the supervisor starts another."""
        if service.process.is_dead:
            return
        service.process.die()
        if self.live.get(service.name) is service:
            self.loop.world.context.copy().run(
                self.loop.call_at, self.loop.now + 0.5 + self.rng.random() * 3, self.start_service, service.name
            )

    async def client(self, client: Client) -> None:
        """Asks until it is accepted."""
        await asyncio.sleep(client.at_s)
        submission_id = f"sub_{self.rng.getrandbits(128):032x}"
        content = f"sample {client.name}".encode()
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob_content[sha256] = content
        blob = BlobRef(sha256=sha256, size_bytes=len(content))
        while not client.is_accepted:
            service = self.live["intake"]
            if service.is_up and not service.process.is_dead:
                answer = self.loop.create_future()
                service.process.spawn(self._submit(service, client, submission_id, blob, answer))
                try:
                    client.task_id = await asyncio.wait_for(answer, 30)
                    client.is_accepted = True
                except (TimeoutError, ConnectionError):
                    self.counts["submission_repeated"] += 1
            await asyncio.sleep(1)

    async def _submit(
        self, service: SimService, client: Client, submission_id: str, blob: BlobRef, answer: "asyncio.Future[str]"
    ) -> None:
        tables = Tables(service.store, service.runtime.unit)
        submission = decide(
            submission_id=submission_id,
            owner="somebody",
            idempotency_key=client.name,
            fingerprint="same",
            blob=blob,
            name_sent=client.name.encode(),
            requests=[client.request],
            at=service.runtime.clock.now(),
        )
        try:
            standing = await tables.add(submission)
        except TransientError:
            if not answer.done():
                answer.set_exception(ConnectionError("refused"))
            return
        if not answer.done():
            answer.set_result(standing.tasks[0].task_id)

    def run(self) -> Outcome:
        """Everything, from the start until it has come to rest."""
        gc.disable()
        try:
            with replaced(self.around), virtual_time(self.loop), self._quiet(), self._bus():
                for name in SERVICES:
                    self.start_service(name)
                for number in range(1 + self.rng.randrange(3)):
                    client = Client(
                        f"t{number}.bin", self.rng.random() * 60, AnalysisRequest(timeout_s=1 + self.rng.randrange(30))
                    )
                    self.clients.append(client)
                    self.loop.world.spawn(self.client(client))
                self.loop.run_while(
                    lambda: self.loop.steps % REST_SEEN_STEPS != 0 or not self.is_at_rest(),
                    until=LIMIT_S,
                    steps_max=STEPS_MAX,
                )
                self.judge()
        finally:
            self.loop.bury()
            shutil.rmtree(self.scratch_dir, ignore_errors=True)
            gc.enable()
        return Outcome(
            self.seed,
            self.loop.trace,
            self.loop.steps,
            self.loop.now,
            self.counts,
            self.violations + self.loop.failures,
        )

    def is_at_rest(self) -> bool:
        """Every machine is ready or out of the pool, every task has ended."""
        if not all(
            client.is_accepted and self.task_state(client.task_id) in TERMINAL_STATES for client in self.clients
        ):
            return False
        return all(self.machine_state(spec.machine_id) in ("ready", "quarantined") for spec in self.around.specs)

    def task_state(self, task_id: str) -> str | None:
        """As the projection says."""
        rows = self.databases["scheduler"].run("SELECT state FROM task_rows WHERE task_id = $1", (task_id,))
        return rows[0]["state"] if rows else None

    def machine_state(self, machine_id: str) -> str | None:
        """As the projection says."""
        rows = self.databases["machines"].run("SELECT state FROM fleet WHERE machine_id = $1", (machine_id,))
        return rows[0]["state"] if rows else None

    def judge(self) -> None:
        """What has to hold at the end."""
        if self.is_at_rest():
            return
        for client in self.clients:
            self.violations.append(
                f"task {client.name} accepted={client.is_accepted} {self.task_state(client.task_id)}"
            )
        for spec in self.around.specs:
            self.violations.append(f"machine {spec.machine_id} {self.machine_state(spec.machine_id)}")

    @contextmanager
    def _bus(self) -> Iterator[None]:
        async def connect(url: str, *, timeout: float) -> Any:  # noqa: ASYNC109
            return await connector(self.broker, PROCESS.get())(url, timeout=timeout)

        with patch.object(aio_pika, "connect_robust", connect):
            yield

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """What services log is counted, not written."""
        before = structlog.get_config()
        structlog.configure(processors=[self._count], logger_factory=structlog.ReturnLoggerFactory())
        try:
            yield
        finally:
            structlog.configure(**before)

    def _count(self, _logger: Any, _method: str, event: Any) -> Any:
        self.counts[f"log {event['event']}"] += 1
        if event["event"] in ("handler_failed", "work_failed"):
            self.violations.append(f"{event['event']} {event} {sys.exc_info()[1]!r}")
        raise structlog.DropEvent


def _fast_directory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
