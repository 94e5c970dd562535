"""The five services in simulated processes, composed by their own `compose`: only what is outside is replaced."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any
from unittest.mock import patch
from uuid import UUID

from malbox.sdk.manifest import load_manifest
from services.chassis import migrations
from services.chassis import projections as projections_module
from services.chassis import relay as relay_module
from services.chassis import run as chassis_run
from services.chassis.parked import ParkedMessages
from services.chassis.projections import Projector
from services.chassis.relay import Relay
from services.chassis.run import Runtime, Service, no_announcements
from services.chassis.store import Store
from services.chassis.topology import Topology
from services.chassis.unit import Announce
from services.chassis.work import Worker
from services.intake import main as intake_main
from services.intake.settings import IntakeSettings
from services.machines import main as machines_main
from services.machines.adapters.absent_network import AbsentNetwork
from services.machines.announcements import announce as machines_words
from services.machines.domain.spec import MachineSpec
from services.machines.reconcile import Wishes
from services.machines.settings import MachinesSettings
from services.plugins import main as plugins_main
from services.plugins.adapters.folders import BUILTIN_DIR, read_catalogue
from services.plugins.domain.catalogue import Catalogue
from services.plugins.guest_stage import GuestStage
from services.plugins.settings import PluginsSettings
from services.results import main as results_main
from services.results.settings import ResultsSettings
from services.scheduler import dispatch as dispatch_module
from services.scheduler import main as scheduler_main
from services.scheduler.announcements import announce as scheduler_words
from services.scheduler.settings import SchedulerSettings
from tests.simulation import queue as _queue  # noqa: F401 - its statements are known by being imported
from tests.simulation.blobs import SimBlobs, SimSandbox
from tests.simulation.broker import SimBroker
from tests.simulation.connections import Pool
from tests.simulation.consumer import SimConsumer
from tests.simulation.database import template
from tests.simulation.enroller import SimEnroller
from tests.simulation.guest import SimConnector
from tests.simulation.hypervisor import SimHypervisor
from tests.simulation.loop import PROCESS, Process, SimLoop
from tests.simulation.networks import SimNetwork
from tests.simulation.world import SimWorld

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
POLL_S = 6.0
"""The slow polls behind wakes are slower here: most of them find nothing, and each costs steps."""
PLUGINS = ("identity", "syscalls", "filesystem", "behaviour")
_MODULES: dict[str, ModuleType] = {
    "intake": intake_main,
    "scheduler": scheduler_main,
    "machines": machines_main,
    "plugins": plugins_main,
    "results": results_main,
}
SERVICES = tuple(_MODULES)
_WORDS: dict[str, Announce] = {"machines": machines_words, "scheduler": scheduler_words}
_SETTINGS: dict[str, Any] = {
    "intake": IntakeSettings,
    "scheduler": SchedulerSettings,
    "machines": MachinesSettings,
    "plugins": PluginsSettings,
    "results": ResultsSettings,
}


@cache
def empty_database(name: str) -> bytes:
    """The service's schema, made from its own migrations."""
    module = _MODULES[name]
    own = module.migrations() if name == "intake" else module.MIGRATIONS
    later = tuple(migrations._text(part) for part in migrations._LATER)
    return template(name, (migrations._text(migrations._FIRST), *own, *later))


@cache
def catalogue() -> Catalogue:
    """A plugin for each stage."""
    found = read_catalogue((BUILTIN_DIR,))
    return Catalogue({name: found.plugins[name] for name in PLUGINS})


class SimClock:
    """The wall clock of one process; identifiers are drawn from the seed."""

    def __init__(self, process: Process, rng: Random) -> None:
        self._process = process
        self._rng = rng

    def now(self) -> datetime:
        """What the wall clock shows."""
        return BEGINNING + timedelta(seconds=self._process.loop.now + self._process.wall_offset_s)

    def uuid(self) -> UUID:
        """A number from the seed."""
        return UUID(int=self._rng.getrandbits(128), version=4)


class SimStore(Store):
    """The real store, which remembers what it decoded."""

    decoded: dict[tuple[UUID, int, bytes], Any]

    def decode(self, stream: UUID, version: int, topic: str, state: bytes) -> Any:
        """The event."""
        key = (stream, version, state)
        event = self.decoded.get(key)
        if event is None:
            event = self.decoded[key] = super().decode(stream, version, topic, state)
        return event


class Surroundings:
    """What the services of one simulation are plugged into."""

    def __init__(
        self,
        loop: SimLoop,
        rng: Random,
        counts: Counter[str],
        *,
        broker: SimBroker,
        world: SimWorld,
        blobs: SimBlobs,
        sandbox: SimSandbox,
        specs: list[MachineSpec],
        scratch_dir: Path,
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.counts = counts
        self.broker = broker
        self.world = world
        self.blobs = blobs
        self.sandbox = sandbox
        self.specs = specs
        self.more: dict[str, dict[str, Any]] = {}
        """Settings that differ from the usual ones, by service."""
        self.scratch_dir = scratch_dir
        self.decoded: dict[tuple[UUID, int, bytes], Any] = {}
        self.hypervisor: Callable[[Process], SimHypervisor] = partial(SimHypervisor, world)
        self.enroller: Callable[[], SimEnroller] = partial(SimEnroller, world)
        self.connector: Callable[[], SimConnector] = partial(SimConnector, world)
        self.consumer: type[SimConsumer] = SimConsumer

    def settings(self, name: str, process: Process) -> Any:
        """Those of the service; each process has a scratch directory of its own."""
        scratch = self.scratch_dir / f"{name}-{process.number}"
        return _SETTINGS[name].model_construct(
            amqp_url="",
            database_url="",
            blob_dir=Path("/simulated"),
            scratch_dir=scratch,
            http_port=0,
            gateway_secret="-" * 16,
            machines_file=Path("/simulated"),
            admin_token_sha256="0" * 64,
            **self.more.get(name, {}),
        )

    def network(self, settings: MachinesSettings) -> Any:
        """The way to the network helper, if the host has one."""
        return AbsentNetwork() if settings.network_socket is None else SimNetwork(self.world, self.world.networks)


class SimService:
    """One process of one service, from its start to its death."""

    def __init__(self, name: str, process: Process, pool: Pool, around: Surroundings) -> None:
        self.name = name
        self.process = process
        self.pool = pool
        self.around = around
        self.store = SimStore(pool, name)  # type: ignore[arg-type]
        self.store.decoded = around.decoded
        self.runtime = Runtime(
            around.settings(name, process),
            self.store,
            around.blobs,
            SimClock(process, around.rng),
            _WORDS.get(name, no_announcements),
        )
        self.consumer: SimConsumer | None = None
        self.is_up = False

    @property
    def holds_a_transaction(self) -> bool:
        """Whether others wait for a transaction of this process."""
        holder = self.pool.lock.holder
        return holder is not None and holder.pool is self.pool

    async def main(self) -> None:
        """The service runs, as `services.chassis.run` has it, until its process dies."""
        service = await self._composed()
        if service.on_start is not None:
            await service.on_start()
        runtime = self.runtime
        relay = Relay(self.store, "")
        self.consumer = self.around.consumer(
            self.around.broker,
            self.process,
            topology=Topology(self.name, runtime.settings.host, service.handlers, service.has_host_commands),
            store=self.store,
            clock=runtime.clock,
            announce=runtime.announce,
            parked=ParkedMessages(self.store, relay.wake),
            prefetch=runtime.settings.prefetch,
        )
        worker = Worker(
            service=self.name,
            store=self.store,
            clock=runtime.clock,
            announce=runtime.announce,
            runners={runner.kind: runner for runner in service.runners},
        )
        await chassis_run._until_available(self.consumer.start)
        self.is_up = True
        async with asyncio.TaskGroup() as group:
            for work in (
                relay.run(),
                worker.run(),
                *(Projector(self.store, projection).run() for projection in service.projections),
                *(background() for background in service.background),
            ):
                group.create_task(work)

    async def _composed(self) -> Service:
        if self.name == "plugins":
            return await plugins_main.compose(self.runtime, self.around.connector())
        composed: Service = await _MODULES[self.name].compose(self.runtime)
        return composed


class SimWishes(Wishes):
    """A file of machines that is written to at once."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(Path("/simulated"), lambda _path: list(around.specs))
        self._around = around
        self.refresh()

    def refresh(self) -> bool:
        """It is as it is now."""
        if list(self.specs.values()) != self._around.specs:
            self._take("read")
        return True


class SimFolders:
    """Directories of plugins that nobody ever touches."""

    async def read(self) -> Catalogue:
        """A plugin for each stage."""
        return catalogue()

    async def changed(self, timeout_s: float) -> None:
        """So long passed."""
        await asyncio.sleep(timeout_s)

    async def watch(self) -> None:
        """There is nothing to watch."""


def _monotonic() -> float:
    """The clock of the process that asks, at whatever time this module was imported."""
    return time.monotonic()


@contextmanager
def replaced(around: Surroundings) -> Iterator[None]:
    """What `compose` plugs in of the outside world is the simulated one, for as long as the block lasts."""
    empty = lambda *_arguments, **_named: None  # noqa: E731 - no HTTP here
    replacements: tuple[tuple[Any, str, Any], ...] = (
        (machines_main, "_outside", lambda _settings: (around.hypervisor(PROCESS.get()), around.enroller())),
        (machines_main, "Wishes", lambda _path, _load: SimWishes(around)),
        (machines_main, "_network", around.network),
        (machines_main, "router", empty),
        (plugins_main, "BubblewrapRunner", lambda **_settings: around.sandbox),
        (plugins_main, "WatchedFolders", lambda *_arguments: SimFolders()),
        (plugins_main, "load_manifest", cache(load_manifest)),
        (plugins_main, "router", empty),
        (plugins_main, "instances_router", empty),
        (plugins_main, "GuestStage", partial(GuestStage, monotonic=_monotonic)),
        (scheduler_main, "router", empty),
        (scheduler_main, "AuditStream", empty),
        (results_main, "router", empty),
        (intake_main, "build_router", empty),
        (relay_module, "IDLE_POLL_S", POLL_S),
        (projections_module, "IDLE_POLL_S", POLL_S),
        (dispatch_module, "IDLE_POLL_S", POLL_S),
    )
    with ExitStack() as stack:
        for module, name, replacement in replacements:
            stack.enter_context(patch.object(module, name, replacement))
        yield
