"""What is plugged into what in the machines service."""

from functools import partial

from services.chassis.crash_points import Point, guarded
from services.chassis.run import Runtime, Service
from services.machines.adapters.authorities import Authorities
from services.machines.adapters.guest_agent import GrpcEnroller
from services.machines.adapters.instant import InstantFleet
from services.machines.adapters.libvirt import LibvirtHypervisor
from services.machines.api import router
from services.machines.effects import Effects
from services.machines.errors import HypervisorRefused
from services.machines.handlers import HANDLERS
from services.machines.ports import GuestEnroller, Hypervisor
from services.machines.projections import EXPIRIES, FLEET, MIGRATIONS
from services.machines.reconcile import LeaseWatch, Reconciler, Wishes
from services.machines.settings import MachinesSettings, load_machines

__all__ = ["MIGRATIONS", "compose"]


async def compose(runtime: Runtime) -> Service:
    """The service, on the hypervisor that the settings name."""
    settings: MachinesSettings = runtime.settings
    hypervisor, enroller = _outside(settings)
    hypervisor = guarded(hypervisor, Point.HYPERVISOR_BEFORE, Point.HYPERVISOR_AFTER)
    enroller = guarded(enroller, Point.AGENT_BEFORE, Point.AGENT_AFTER)
    effects = Effects(hypervisor, enroller, Authorities(runtime.store))
    wishes = Wishes(settings.machines_file, partial(load_machines, host=settings.host))
    reconciler = Reconciler(runtime, hypervisor, wishes, settings.observe_interval_s)
    watch = LeaseWatch(runtime, hypervisor)
    return Service(
        handlers=HANDLERS,
        projections=(FLEET,),
        runners=effects.runners(),
        routers=(router(runtime),),
        background=(reconciler.run, watch.run),
        expiries=EXPIRIES,
        condition=reconciler.condition,
        on_start=reconciler.introduce,
        on_stop=hypervisor.close,
        has_host_commands=True,
    )


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
