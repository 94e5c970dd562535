"""Everything that runs, in the order in which it is started: each part can be started, found again, and stopped."""

from collections.abc import Callable
from dataclasses import dataclass

from deploy.local import images, nginx, postgres, processes, rabbitmq
from deploy.local.installation import Installation
from deploy.local.services import ServiceProcess
from deploy.local.state import SERVICES, DeployError, State

LIBVIRT = "libvirt"


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
        Part(LIBVIRT, lambda: start_libvirt(here.state)[0], lambda: stop_libvirt(here.state)),
        Part(nginx.NAME, gateway.start, gateway.stop),
    ]


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


def start_libvirt(state: State) -> tuple[processes.Identity, str]:
    """The private libvirt daemon answers at the address returned. Raises DeployError."""
    from deploy.local import libvirt  # noqa: PLC0415 - its binding is compiled: only up and down need it

    started = libvirt.start(state)
    running = processes.Identity.of(started.pid)
    if running is None:
        raise DeployError(f"the private libvirt daemon ended at once; look into {state.log}")
    processes.remember(state, LIBVIRT, running)
    return running, started.uri


def stop_libvirt(state: State) -> bool:
    """The private libvirt daemon is down. Returns whether it ran."""
    from deploy.local import libvirt  # noqa: PLC0415 - see above

    was_running = processes.started(state, LIBVIRT) is not None
    libvirt.stop(state)
    processes.forget(state, LIBVIRT)
    return was_running
