"""Starts everything that is not running yet, in parallel where nothing depends on it, and says what it waits for."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local import (
    crashes,
    images,
    libvirt,
    network,
    nginx,
    parts,
    pki,
    plugin_group,
    postgres,
    processes,
    rabbitmq,
    settings,
    supervisor,
)
from deploy.local.installation import Installation
from deploy.local.ports import Moved
from deploy.local.progress import Progress, await_all, run_together, silent
from deploy.local.services import ServiceProcess, fetch_health
from deploy.local.state import DeployError, State

READY_TIMEOUT_S = 90.0
LAST_LINES = 8
FREE_MIN_MIB = 1024  # the stores, the bus and a machine write from the first second on


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
    require_space(state.root)
    try:
        state.prepare()
        with processes.only_starter(state, "up"):
            here, moved = Installation.prepare(state, parts.ports_in_use(state))
            _tell_moved(moved, progress)
            pki.ensure(state)
            _start(here, progress)
    except OSError as error:
        raise DeployError(
            f"{error}. Is {state.root} on a disk that is full, or was something in it changed?"
        ) from error
    return Started(settings.gateway_url(here.ports), state.root, state.admin_token, time.monotonic() - began_s)


def require_space(place: Path) -> None:
    """Raises DeployError before anything is half made on a disk that is all but full."""
    there = next(path for path in (place, *place.parents) if path.exists())
    free_mib = shutil.disk_usage(there).free // 1024**2
    if free_mib < FREE_MIN_MIB:
        raise DeployError(
            f"the disk is full: {free_mib} MiB free at {there}, {FREE_MIN_MIB} MiB are needed to start. Make room."
        )


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
        plugin_group.prepare(here.state)
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
    # A supervisor that is in the middle of a long pause before the next attempt would only be waited for.
    looping = [service for service in parts.service_processes(here) if crashes.is_looping(here.state, service.name)]
    if outdated or looping:
        supervisor.stop(here.state)
        for service in looping:
            crashes.note(here.state, service.name, 0)
    if network.is_possible() and not network.is_current(here.state):
        supervisor.stop(here.state)
        network.stop(here.state)
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
        raise DeployError(
            f"not ready after {READY_TIMEOUT_S:.0f} s: {', '.join(late)}. {_last_words(here.state, late)}"
        )


def _last_words(state: State, names: list[str]) -> str:
    tails = "\n".join(f"{name}:\n{processes.log_tail(state, name, LAST_LINES)}" for name in names)
    return f"What they logged last:\n{tails}"


def _readiness(service: ServiceProcess, gateway_port: int) -> Callable[[], bool]:
    def is_ready() -> bool:
        if crashes.is_looping(service.state, service.name):
            times = crashes.count(service.state, service.name)
            raise DeployError(
                f"{service.name} has ended {times} times in a row. {_last_words(service.state, [service.name])}"
            )
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
