"""What is plugged into what in the machines service."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from contracts.submission import Route
from services.chassis.clock import Clock, SystemClock
from services.chassis.crash_points import Point, guarded
from services.chassis.run import Background, Runtime, Service
from services.chassis.work import Runner
from services.machines.adapters.absent_network import REMEDY, AbsentNetwork
from services.machines.adapters.authorities import Authorities
from services.machines.adapters.guest_agent import GrpcEnroller
from services.machines.adapters.guest_network import HelperNetwork
from services.machines.adapters.instant import InstantFleet
from services.machines.adapters.libvirt import LibvirtHypervisor
from services.machines.api import router
from services.machines.domain.spec import MachineSpec
from services.machines.effects import Effects
from services.machines.errors import HypervisorRefused, NetworkUnavailable
from services.machines.handlers import HANDLERS
from services.machines.isolation import IsolationWatch
from services.machines.policy import on_host
from services.machines.ports import GuestEnroller, GuestNetwork, Hypervisor
from services.machines.projections import EXPIRIES, FLEET, MIGRATIONS
from services.machines.reconcile import Deadlines, LeaseWatch, Reconciler, Wishes
from services.machines.reconcile.deadlines import FILE
from services.machines.settings import MachinesSettings, load_machines

__all__ = ["MIGRATIONS", "compose", "keep_deadlines"]

_HELPER_TRIES, _HELPER_PAUSE_S = 150, 0.2

log = structlog.get_logger()


async def compose(runtime: Runtime) -> Service:
    """The service, on the hypervisor that the settings name."""
    settings: MachinesSettings = runtime.settings
    hypervisor, enroller = _outside(settings)
    hypervisor = guarded(hypervisor, Point.HYPERVISOR_BEFORE, Point.HYPERVISOR_AFTER)
    enroller = guarded(enroller, Point.AGENT_BEFORE, Point.AGENT_AFTER)
    network = _network(settings)
    effects = Effects(hypervisor, enroller, Authorities(runtime.store), network)
    wishes = Wishes(settings.machines_file, await _reader(settings.host, network))
    reconciler = Reconciler(runtime, hypervisor, network, wishes, settings.observe_interval_s)
    watch = LeaseWatch(runtime, _deadlines(settings, hypervisor, runtime.clock))
    isolation = IsolationWatch(runtime, network, settings.observe_interval_s)
    return Service(
        handlers=HANDLERS,
        projections=(FLEET,),
        runners=of_host(effects.runners(), settings.host),
        routers=(router(runtime, reconciler.hindrance, effects.troubles.unstopped),),
        background=(reconciler.run, watch.run, *_watching(settings, isolation)),
        expiries=EXPIRIES,
        condition=lambda: reconciler.condition() | effects.troubles.condition(),
        on_start=reconciler.begin,
        on_stop=hypervisor.close,
        has_host_commands=True,
    )


async def keep_deadlines(settings: MachinesSettings) -> None:
    """Until the service watches itself: the guests that the process before this one knew end at their deadlines."""
    hypervisor, _ = _outside(settings)
    try:
        await _deadlines(settings, hypervisor, SystemClock()).keep_all()
    finally:
        await hypervisor.close()


def _deadlines(settings: MachinesSettings, hypervisor: Hypervisor, clock: Clock) -> Deadlines:
    return Deadlines(hypervisor, clock, settings.scratch_dir / FILE)


def of_host(runners: Sequence[Runner], host: str) -> tuple[Runner, ...]:
    """The runners, of this host's machines alone in whatever touches the host."""
    return tuple(replace(runner, kind=on_host(runner.kind, host)) for runner in runners)


def _network(settings: MachinesSettings) -> GuestNetwork:
    return AbsentNetwork() if settings.network_socket is None else HelperNetwork(settings.network_socket)


def _watching(settings: MachinesSettings, isolation: IsolationWatch) -> tuple[Background, ...]:
    """Without the helper there is nothing to watch over."""
    return () if settings.network_socket is None else (isolation.run, isolation.listen)


async def _reader(host: str, network: GuestNetwork) -> Callable[[Path], list[MachineSpec]]:
    """Reads the machines file; a route that this host cannot open is said, and not promised to anybody."""
    routes = await _routes(network)

    def read(path: Path) -> list[MachineSpec]:
        specs = load_machines(path, host)
        for spec in specs:
            if missing := [route for route in spec.routes if route not in routes]:
                log.warning("routes_cannot_be_opened", machine=spec.machine_id, routes=missing, remedy=REMEDY)
        return [spec.narrowed(routes) for spec in specs]

    return read


async def _routes(network: GuestNetwork) -> tuple[Route, ...]:
    """What the host can open. The helper may be starting still. Raises NetworkUnavailable when it does not."""
    for _ in range(_HELPER_TRIES):
        with suppress(NetworkUnavailable):
            return await network.routes()
        await asyncio.sleep(_HELPER_PAUSE_S)
    return await network.routes()


def _outside(settings: MachinesSettings) -> tuple[Hypervisor, GuestEnroller]:
    if settings.hypervisor == "instant":
        fleet = InstantFleet(
            client_ca_pem=settings.guest_client_ca_file.read_text(encoding="ascii"),
            fences_dir=settings.instant_fences_dir,
        )
        return fleet, fleet
    if settings.libvirt is None:
        raise HypervisorRefused("the settings name the libvirt hypervisor but have no [libvirt] table")
    enroller = GrpcEnroller(
        client_ca_file=settings.guest_client_ca_file,
        client_cert_file=settings.guest_client_cert_file,
        client_key_file=settings.guest_client_key_file,
    )
    return LibvirtHypervisor(settings.libvirt), enroller
