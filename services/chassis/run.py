"""Runs one service: what is plugged into what, in one place, from start to a clean end."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import structlog
import uvloop
from fastapi import APIRouter

from contracts.envelope import Message
from services.chassis import crash_points, housekeeping
from services.chassis import log as logs
from services.chassis.blobs import BlobStore
from services.chassis.bus import Consumer
from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import PermanentError, TransientError
from services.chassis.http import Server, build_app
from services.chassis.migrations import migrate
from services.chassis.operators import dead_router, projections_router
from services.chassis.parked import DECIDED_DAYS, ParkedMessages
from services.chassis.projections import Projection, Projector
from services.chassis.rebuild import Rebuilds
from services.chassis.relay import Relay
from services.chassis.settings import ServiceSettings
from services.chassis.store import UNAVAILABLE, Store
from services.chassis.suspects import SUSPECTS_DAYS
from services.chassis.topology import Handler, Topology
from services.chassis.unit import Announce, Cause, Unit
from services.chassis.work import Runner, Worker

START_TRIES = 120
START_RETRY_S = 0.5
LAG_ALARM_S = 30.0
YOUNG_OBJECTS_MAX = 20_000
"""So many may be made before cycles are looked for among them. What a message makes is mostly freed without."""
CHASSIS_EXPIRIES = (
    housekeeping.INBOX,
    housekeeping.Expiry("parked", "decided_at", DECIDED_DAYS),
    housekeeping.Expiry("suspects", "seen_at", SUSPECTS_DAYS),
)
Background = Callable[[], Coroutine[Any, Any, None]]
log = structlog.get_logger()
T = TypeVar("T")


def release() -> str:
    """The version of Malbox that runs."""
    try:
        return version("malbox")
    except PackageNotFoundError:
        return "0.1.0"


@dataclass
class Runtime:
    """What the chassis gives a service while it is being composed."""

    settings: Any
    store: Store
    blobs: BlobStore
    clock: Clock
    announce: Announce

    def unit(self) -> Unit:
        """An empty unit with no cause, for what begins here (an HTTP request, a start)."""
        return Unit(
            service=self.store.schema,
            at=self.clock.now(),
            uuid=self.clock.uuid,
            announce=self.announce,
            cause=Cause(),
        )


@dataclass
class Service:
    """A composed service. `background` run as long as it does; `on_start` before anything is consumed.

    `condition` is what its health shows besides: faults that an operator is to know of and that do not keep it from
    serving.
    """

    handlers: Mapping[type[Message], Handler] = field(default_factory=dict)
    projections: Sequence[Projection] = ()
    runners: Sequence[Runner] = ()
    routers: Sequence[APIRouter] = ()
    background: Sequence[Background] = ()
    on_start: Callable[[], Awaitable[None]] | None = None
    on_stop: Callable[[], Awaitable[None]] | None = None
    has_host_commands: bool = False
    expiries: Sequence[housekeeping.Expiry] = ()
    condition: Callable[[], Mapping[str, Any]] | None = None


def no_announcements(_event: Any, _aggregate: Any) -> Sequence[Message]:
    """For a service without aggregates."""
    return ()


def run(
    name: str,
    settings: ServiceSettings,
    compose: Callable[[Runtime], Awaitable[Service]],
    *,
    migrations: tuple[str, ...] = (),
    announce: Announce = no_announcements,
    until_served: Background | None = None,
) -> None:
    """The service runs until SIGTERM or SIGINT. Exits 1, with the reason in the log, when it cannot start.

    `until_served` needs neither store nor broker, and runs until both are there.
    """
    logs.configure(name)
    try:
        crash_points.arm(os.environ.get(crash_points.VARIABLE))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                serve(
                    name,
                    settings,
                    compose,
                    migrations=migrations,
                    announce=announce,
                    until_served=until_served,
                )
            )
    except* (PermanentError, TransientError) as faults:
        log.error("service_could_not_run", reasons=[str(fault) for fault in faults.exceptions])  # noqa: TRY400
        raise SystemExit(1) from None


async def serve(
    name: str,
    settings: ServiceSettings,
    compose: Callable[[Runtime], Awaitable[Service]],
    *,
    migrations: tuple[str, ...] = (),
    announce: Announce = no_announcements,
    until_served: Background | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """The same inside a running loop; ends when `stop` is set."""
    stop = stop or _stop_on_signals()
    clock = SystemClock()
    async with AsyncExitStack() as beside:
        await beside.enter_async_context(_running(until_served))
        store = await _until_available(lambda: Store.open(settings.database_url, name))
        try:
            await _until_available(lambda: migrate(store, migrations))
            runtime = Runtime(settings, store, BlobStore(settings.blob_dir), clock, announce)
            service = await compose(runtime)
            _spare_what_stays()
            if service.on_start is not None:
                await service.on_start()
            try:
                await _serve(name, runtime, service, beside, stop)
            finally:
                if service.on_stop is not None:
                    await service.on_stop()
        finally:
            await store.close()
    log.info("service_stopped")


@asynccontextmanager
async def _running(background: Background | None) -> AsyncIterator[None]:
    """The background runs for as long as the block lasts; a failure of its own is logged."""
    if background is None:
        yield
        return
    running = asyncio.create_task(background())
    try:
        yield
    finally:
        running.cancel()
        (outcome,) = await asyncio.gather(running, return_exceptions=True)
        if isinstance(outcome, Exception):
            log.error("what_ran_until_served_failed", exc_info=outcome)


def _spare_what_stays() -> None:
    """What was made until now lives as long as the process, and is never looked at again by who looks for cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 10, 10)


async def _serve(name: str, runtime: Runtime, service: Service, beside: AsyncExitStack, stop: asyncio.Event) -> None:
    """Serves until `stop` is set; what ran beside the start ends when the service's own parts begin."""
    settings, store, clock, announce = runtime.settings, runtime.store, runtime.clock, runtime.announce
    topology = Topology(name, settings.host, service.handlers, service.has_host_commands)
    relay = Relay(store, settings.amqp_url)
    parked = ParkedMessages(store, relay.wake)
    consumer = Consumer(
        url=settings.amqp_url,
        topology=topology,
        store=store,
        clock=clock,
        announce=announce,
        parked=parked,
        prefetch=settings.prefetch,
    )
    projections = {projection.name: projection for projection in service.projections}
    rebuilds = Rebuilds(store, projections, runtime.unit)
    runners = {runner.kind: runner for runner in (*service.runners, *((rebuilds.runner,) if projections else ()))}
    worker = Worker(service=name, store=store, clock=clock, announce=announce, runners=runners)

    async def readiness() -> dict[str, Any]:
        lag_s = await relay.lag_s()
        is_consuming = await consumer.is_ready()
        return {
            "is_ready": is_consuming and lag_s < LAG_ALARM_S,
            "is_consuming": is_consuming,
            "outbox_lag_s": round(lag_s, 3),
            "messages_parked": await parked.waiting(),
            **(service.condition() if service.condition is not None else {}),
        }

    app = build_app(
        service=name,
        version=release(),
        gateway_secret=settings.gateway_secret,
        routers=(*service.routers, dead_router(name, parked), projections_router(name, rebuilds)),
        readiness=readiness,
    )
    server = Server(app, host=settings.http_host, port=settings.http_port)
    await _until_available(consumer.start)
    try:
        await beside.aclose()
        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[None]] = [
                group.create_task(coroutine)
                for coroutine in (
                    relay.run(),
                    worker.run(),
                    housekeeping.run(store, (*CHASSIS_EXPIRIES, *service.expiries)),
                    *(Projector(store, projection).run() for projection in service.projections),
                    *(background() for background in service.background),
                )
            ]
            http = group.create_task(server.serve())
            log.info("service_started", http_port=settings.http_port)
            await stop.wait()
            server.should_exit = True
            await http
            for task in tasks:
                task.cancel()
    finally:
        await consumer.stop()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _until_available(call: Callable[[], Awaitable[T]]) -> T:
    """The first success. Broker and database may start after their services. Raises the last failure after a minute."""
    for attempt in range(START_TRIES):
        try:
            return await call()
        except (TransientError, *UNAVAILABLE) as error:
            log.warning("waiting_for_a_dependency", reason=f"{type(error).__name__}: {error}")
            if attempt == START_TRIES - 1:
                raise
            await asyncio.sleep(START_RETRY_S)
    raise TransientError
