"""Starts everything that is not running yet, in parallel where nothing depends on it, and says what it waits for."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local import images, libvirt, nginx, parts, pki, postgres, processes, rabbitmq, settings, supervisor
from deploy.local.installation import Installation
from deploy.local.ports import Moved
from deploy.local.progress import Progress, await_all, run_together, silent
from deploy.local.services import ServiceProcess, fetch_health
from deploy.local.state import DeployError, State

READY_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Started:
    """What is true after `up`."""

    url: str
    state_dir: Path
    token_file: Path
    took_s: float


def up(state: State, progress: Progress = silent) -> Started:
    """Servers, services and gateway run and are ready. Raises DeployError, saying what to do."""
    began_s = time.monotonic()
    state.prepare()
    with processes.only_starter(state, "up"):
        here, moved = Installation.prepare(state, parts.ports_in_use(state))
        _tell_moved(moved, progress)
        pki.ensure(state)
        _start(here, progress)
    return Started(settings.gateway_url(here.ports), state.root, state.admin_token, time.monotonic() - began_s)


def _start(here: Installation, progress: Progress) -> None:
    """The services start while broker and image are still on their way: they wait for what they need themselves."""
    database = here.postgres()

    def start_database() -> str:
        said = _started(here.state, postgres.NAME, database.start)
        database.set_up()
        return said

    def start_libvirt() -> str:
        return _started(here.state, libvirt.NAME, lambda: parts.start_libvirt(here.state))

    def start_services() -> str:
        settings.write(here, libvirt.uri(here.state))
        run_together({"postgres": start_database, "libvirt": start_libvirt}, progress)
        return _start_services(here)

    run_together(
        {
            "rabbitmq": lambda: _started(here.state, rabbitmq.NAME, here.rabbitmq().start),
            "services": start_services,
            "gateway": lambda: _started(here.state, nginx.NAME, here.nginx().start),
            "guest image": lambda: "built" if images.ensure(here.state) else "is built",
        },
        progress,
    )
    _await_ready(here, progress)


def _start_services(here: Installation) -> str:
    """Services whose source or settings have changed are started anew, by the supervisor that watches them."""
    outdated = [service for service in parts.service_processes(here) if not service.is_current()]
    is_supervised = processes.started(here.state, supervisor.NAME) is not None
    if outdated and is_supervised:
        supervisor.stop(here.state)
    for service in outdated:
        service.stop()
    supervisor.start(here.state)
    return f"{len(outdated)} started" if outdated else "run"


def _await_ready(here: Installation, progress: Progress) -> None:
    gateway = here.ports["gateway"]
    waiting: dict[str, Callable[[], bool]] = {
        service.name: _readiness(service, gateway) for service in parts.service_processes(here)
    }
    late = await_all(waiting, READY_TIMEOUT_S, progress)
    if late:
        tails = "\n".join(f"{name}:\n{processes.log_tail(here.state, name, 5)}" for name in late)
        raise DeployError(
            f"not ready after {READY_TIMEOUT_S:.0f} s: {', '.join(late)}. What they logged last:\n{tails}"
        )


def _readiness(service: ServiceProcess, gateway_port: int) -> Callable[[], bool]:
    def is_ready() -> bool:
        said = fetch_health(gateway_port, service.name)
        return said is not None and bool(said["is_ready"])

    return is_ready


def _started(state: State, name: str, start: Callable[[], processes.Identity]) -> str:
    was_running = processes.started(state, name) is not None
    start()
    return "was running" if was_running else "ready"


def _tell_moved(moved: list[Moved], progress: Progress) -> None:
    for one in moved:
        progress(str(one))
