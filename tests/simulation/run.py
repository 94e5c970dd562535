"""One seed: a world is made, services run in it, faults happen, faults stop, and everything has to come to rest."""

import asyncio
import gc
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import UUID

import aio_pika
from eventsourcing.persistence import StoredEvent

from contracts.scheduler import TERMINAL_STATES
from contracts.submission import AnalysisRequest, PluginChoice, Route
from services.chassis.store import make_mapper
from services.machines.adapters.memory_network import EMPTY_RECORD
from services.machines.domain.spec import MachineSpec
from services.machines.effects import AGENT_BOOT_TIMEOUT_S
from tests.simulation.blobs import SimBlobs, SimSandbox
from tests.simulation.broker import SimBroker
from tests.simulation.chaos import Chaos
from tests.simulation.clients import Client
from tests.simulation.judge import Judge
from tests.simulation.links import connector
from tests.simulation.logged import Logged
from tests.simulation.loop import PROCESS, Process, SimLoop, virtual_time
from tests.simulation.operator import Operator
from tests.simulation.services import POLL_S, SERVICES, SimService, Surroundings, replaced
from tests.simulation.stores import Stores
from tests.simulation.truth import OUT_OF_THE_POOL, Truth
from tests.simulation.world import SimWorld

STEPS_MAX = 400_000
FAULTS_S = 50.0
REST_S = 180.0
"""So long after the last fault everything is at rest: the second repetition of an order that was not answered.

P3 says two minutes; about one seed in two hundred takes longer, when the first repetition is missed too, or when what
answers it finds that something else was lost. A fault that nobody ends is over when it is given up, and what was put
down for later waits longer by as much as the database's clock was set back since.
"""
LIMIT_S = FAULTS_S + 2 * AGENT_BOOT_TIMEOUT_S + 2 * REST_S
"""What is not at rest by then never is."""
RATES = (0.8, 1.2)
EVENTFUL_EVERY = 4
"""Every fourth seed is eventful: an operator gives orders, guests break out, evidence and budgets run out."""
CARDS_SHARE = 0.6
"""So many of them have machines with analysis cards, whose networks are watched."""
IMPATIENT_SHARE = 0.35
"""So many of them have tasks that do not wait for long."""
CHOICES = (*(None,) * 8, (PluginChoice(name="identity"),), (PluginChoice(name="behaviour"),))
"""Which plugins a client asks for: mostly all that apply, else one that needs no machine."""
SHORT_BUDGETS = {
    "queue_budget_s": 12,
    "boot_budget_s": 5,
    "grace_budget_s": 0,
    "collection_budget_s": 5,
    "host_plugins_budget_s": 5,
    "cleanup_budget_s": 5,
}
REST_SEEN_STEPS = 256
DRAIN_S = 2 * POLL_S
"""So long after an event the rows know of it, also where only a slow poll finds it."""


@dataclass
class Outcome:
    """What a seed came to."""

    seed: int
    trace: int
    steps: int
    virtual_s: float
    rest_s: float
    counts: Counter[str]
    violations: list[str]


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many seeds failed, how long they were, and how long it took to come to rest, in two lines."""
    rests = sorted(outcome.rest_s for outcome in outcomes)
    return (
        f"at rest after the faults: median {rests[len(rests) // 2]:.0f} s, longest {rests[-1]:.0f} s\n"
        f"{len(outcomes)} seeds, {sum(bool(outcome.violations) for outcome in outcomes)} failed, "
        f"{sum(outcome.steps for outcome in outcomes)} steps, "
        f"{sum(outcome.virtual_s for outcome in outcomes):.0f} virtual seconds"
    )


class Simulation:
    """One run."""

    def __init__(self, seed: int, *, is_eventful: bool | None = None) -> None:
        self.seed = seed
        self.is_eventful = seed % EVENTFUL_EVERY == 0 if is_eventful is None else is_eventful
        self.rng = Random(seed)  # noqa: S311 - it has to be the same again
        self.counts: Counter[str] = Counter()
        self.loop = SimLoop(self.rng)
        self.broker = SimBroker(self.loop, self.rng, self.counts)
        self.world = SimWorld(self.loop, self.rng, self.counts)
        self.blob_content: dict[str, bytes] = {}
        self.blobs = SimBlobs(self.blob_content, self.rng, self.counts)
        self.sandbox = SimSandbox(self.rng, self.counts)
        self.scratch_dir = Path(tempfile.mkdtemp(prefix="sim-", dir=_fast_directory()))
        self.stores = Stores(self.loop, self.rng, self.counts)
        self.logged = Logged(self.loop, self.counts)
        self.has_cards = self.is_eventful and self.rng.random() < CARDS_SHARE
        routes: tuple[Route, ...] = ("none", "simulated") if self.has_cards else ("none",)
        specs = [
            MachineSpec(
                machine_id=f"m{number}", host="local", profile="linux", platform="linux", image="linux", routes=routes
            )
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
        if self.has_cards:
            self.blob_content |= {hashlib.sha256(EMPTY_RECORD).hexdigest(): EMPTY_RECORD}
            self.around.more["machines"] = {"network_socket": Path("/simulated")}
        if self.is_eventful and self.rng.random() < IMPATIENT_SHARE:
            self.counts["short_budgets"] += 1
            self.around.more["scheduler"] = SHORT_BUDGETS
        self.live: dict[str, SimService] = {}
        self.all: list[SimService] = []
        self.absent: set[str] = set()
        self.clients: list[Client] = []
        self.rest_s = -1.0
        self.rest_begins_at = FAULTS_S
        """When nothing wrong happened any more, and nothing was an operator's."""
        self.drain_s = DRAIN_S
        self.is_hasty = False
        self.mapper = make_mapper()
        self._processes = 0
        self.truth = Truth(self.world, self.counts, self._decode)
        self.world.on_launch = self.truth.launched
        self.world.on_wrong = self.truth.wrong
        databases = self.stores.databases
        for database in databases.values():
            database.on_forgotten = self._see_forgotten
        databases["machines"].on_events = lambda _name, rows: self.truth.machines_events(rows)
        databases["scheduler"].on_events = lambda _name, rows: self.truth.scheduler_events(rows)
        self.operator = Operator(self)
        self.chaos = Chaos(self)

    def _decode(self, stream: UUID, version: int, topic: str, state: bytes) -> Any:
        key = (stream, version, state)
        event = self.around.decoded.get(key)
        if event is None:
            event = self.mapper.to_domain_event(StoredEvent(stream, version, topic, state))
            self.around.decoded[key] = event
        return event

    def everybody(self) -> list[SimService]:
        """Every process that is not dead."""
        self.all = [service for service in self.all if not service.process.is_dead]
        return list(self.all)

    def restore(self, backup: dict[str, bytes]) -> None:
        """All databases are as they were then, and so is what is known of them; the broker is empty; all restart."""
        for service in self.everybody():
            self.crash(service)
        self.broker.wipe()
        self.stores.restore(backup)
        databases = self.stores.databases
        self.truth.forget()
        for name, hear in (("machines", self.truth.machines_events), ("scheduler", self.truth.scheduler_events)):
            rows = databases[name].run("SELECT stream, version, topic, state FROM events ORDER BY position", ())
            self.truth.is_replaying = True
            hear([(row["stream"], row["version"], row["topic"], row["state"]) for row in rows])
            self.truth.is_replaying = False
        known = databases["intake"].run("SELECT tasks FROM submissions", ())
        self.clients = [
            client
            for client in self.clients
            if not client.is_accepted or any(client.task_id in row["tasks"] for row in known)
        ]

    def cut_connections(self) -> None:
        """Every connection to the databases is gone."""
        for service in self.everybody():
            service.pool.cut()

    def start_service(self, name: str) -> SimService:
        """A fresh process of the service runs."""
        self._processes += 1
        rate = RATES[0] + self.rng.random() * (RATES[1] - RATES[0])
        self.counts["fault clock_rate slow" if rate < 1 else "fault clock_rate fast"] += 1
        process = Process(self.loop, name, self._processes, rate=rate)
        service = SimService(name, process, self.stores.pool(process), self.around)
        self.live[name] = service
        self.all.append(service)
        self.latest = service
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
            del self.live[service.name]
            if service.name in self.absent:
                return
            self.loop.world.context.copy().run(
                self.loop.call_at, self.loop.now + 0.5 + self.rng.random() * 3, self.start_service, service.name
            )

    async def _end_of_faults(self) -> None:
        await asyncio.sleep(FAULTS_S)
        self.chaos.end()
        if self.is_eventful:
            await self.operator.put_right()
            self.rest_begins_at = self.loop.now

    def _see_forgotten(self, service: str, message_ids: list[str]) -> None:
        """What leaves the outbox was with the broker."""
        for message_id in set(message_ids) - self.broker.heard:
            self.truth.wrong(f"{service} forgot {message_id} and never said it")

    def run(self, *, is_over_at_first_violation: bool = False) -> Outcome:
        """Everything, from the start until it has come to rest, or until something is wrong if that is enough."""
        self.is_hasty = is_over_at_first_violation
        gc.disable()
        try:
            with replaced(self.around), virtual_time(self.loop), self.logged.kept(), self._bus():
                for name in SERVICES:
                    self.start_service(name)
                routes = self.around.specs[0].routes
                for number in range(1 + self.rng.randrange(3)):
                    client = Client(
                        f"t{number}.bin",
                        self.rng.random() * FAULTS_S * 0.8,
                        AnalysisRequest(
                            timeout_s=1 + self.rng.randrange(30),
                            route=self.rng.choice(routes) if self.is_eventful else "none",
                            plugins=self.rng.choice(CHOICES) if self.is_eventful else None,
                        ),
                    )
                    self.clients.append(client)
                    self.loop.world.spawn(client.ask(self))
                self.chaos.start()
                self.loop.world.spawn(self._end_of_faults())
                self.loop.run_while(self._goes_on, until=LIMIT_S, steps_max=STEPS_MAX)
                if self.is_at_rest():
                    self.rest_s = max(0.0, self.loop.now - max(self.rest_begins_at, self.world.waited_until))
                    self.settle()
                Judge(self).judge(rest_s_max=REST_S + self.stores.set_back_s, limit_s=LIMIT_S)
                self.loop.bury()
        finally:
            self.chaos.undone.close()
            self.loop.close()
            self.stores.close()
            shutil.rmtree(self.scratch_dir, ignore_errors=True)
            gc.enable()
        return Outcome(
            self.seed,
            self.loop.trace,
            self.loop.steps,
            self.loop.now,
            self.rest_s,
            self.counts,
            self.violations(),
        )

    def violations(self) -> list[str]:
        """What was found wrong so far."""
        return self.logged.defects + self.truth.violations + self.loop.failures

    def _goes_on(self) -> bool:
        if self.loop.steps % REST_SEEN_STEPS:
            return True
        if self.is_hasty and self.violations():
            return False
        return not self.is_at_rest()

    def settle(self) -> None:
        """The rows have had their time since the last event, also that of a call that finished after the rest began."""
        began_at = self.loop.now

        def goes_on() -> bool:
            return self.loop.now < max(began_at, self.truth.recorded_at) + self.drain_s or not self.is_at_rest()

        self.loop.run_while(goes_on, until=began_at + REST_S + self.stores.set_back_s, steps_max=STEPS_MAX)
        if goes_on():
            self.truth.wrong(f"it did not stay at rest: the last event came at {self.truth.recorded_at:.3f}")

    def is_at_rest(self) -> bool:
        """Machines are ready or out of the pool, not an operator's; tasks have ended, or wait where none is."""
        if self.absent or not (self.operator.is_done if self.is_eventful else self.chaos.is_over):
            return False
        machines = [self.stores.machine_state(spec.machine_id) for spec in self.around.specs]
        if not all(state == "ready" or state in OUT_OF_THE_POOL for state in machines):
            return False
        may_wait = "ready" not in machines
        tasks = [self.stores.task_state(client.task_id) for client in self.clients]
        return all(client.is_accepted for client in self.clients) and all(
            state in TERMINAL_STATES or (may_wait and state == "queued") for state in tasks
        )

    @contextmanager
    def _bus(self) -> Iterator[None]:
        async def connect(url: str, *, timeout: float) -> Any:  # noqa: ASYNC109
            return await connector(self.broker, PROCESS.get())(url, timeout=timeout)

        with patch.object(aio_pika, "connect_robust", connect):
            yield


def _fast_directory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
