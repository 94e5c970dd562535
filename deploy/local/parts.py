"""Everything that runs, in the order in which it is started: each part can be started, found again, and stopped."""

from collections.abc import Callable
from dataclasses import dataclass

from deploy.local import images, libvirt, network, nginx, postgres, processes, rabbitmq
from deploy.local.installation import Installation
from deploy.local.services import ServiceProcess
from deploy.local.state import SERVICES, DeployError, State


def always() -> bool:
    """Nothing has to be there first."""
    return True


@dataclass(frozen=True)
class Part:
    """One process that must run. `start` is repeatable: it returns the running one where there is one."""

    name: str
    start: Callable[[], processes.Identity]
    stop: Callable[[], bool]
    can_start: Callable[[], bool] = always


def servers(here: Installation) -> list[Part]:
    """What the services stand on, and the gateway."""
    database, broker, gateway = here.postgres(), here.rabbitmq(), here.nginx()
    return [
        Part(postgres.NAME, database.start, database.stop),
        Part(rabbitmq.MAPPER, broker.start_mapper, lambda: processes.stop(here.state, rabbitmq.MAPPER)),
        Part(rabbitmq.NAME, broker.start, broker.stop),
        Part(libvirt.NAME, lambda: start_libvirt(here.state), lambda: libvirt.stop(here.state)),
        *networks(here.state),
        Part(nginx.NAME, gateway.start, gateway.stop),
    ]


def networks(state: State) -> list[Part]:
    """The network helper, where this installation can have one."""
    helper = Part(network.NAME, lambda: network.start(state), lambda: network.stop(state))
    return [helper] if network.is_possible() else []


def service_processes(here: Installation) -> list[ServiceProcess]:
    """The five services."""
    return [ServiceProcess(here.state, name, here.ports[name]) for name in SERVICES]


def services(here: Installation) -> list[Part]:
    """The five services as parts. Machines are made of images: without one that service could only fail."""

    def has_image() -> bool:
        return images.is_built(here.state)

    return [
        Part(service.name, service.start, service.stop, has_image if service.name == "machines" else always)
        for service in service_processes(here)
    ]


def ports_in_use(state: State) -> frozenset[str]:
    """Names of the ports that running processes of this installation hold."""
    holders = {
        postgres.NAME: ("postgres",),
        rabbitmq.NAME: ("amqp", "dist"),
        rabbitmq.MAPPER: ("epmd",),
        nginx.NAME: ("gateway",),
        **{service: (service,) for service in SERVICES},
    }
    return frozenset(port for name, held in holders.items() if processes.started(state, name) for port in held)


def start_libvirt(state: State) -> processes.Identity:
    """The private libvirt daemon answers. Raises DeployError."""
    with processes.only_starter(state, libvirt.NAME):
        libvirt.start(state)
    running = processes.started(state, libvirt.NAME)
    if running is None:
        raise DeployError(f"the private libvirt daemon ended at once; look into {state.log}")
    return running
