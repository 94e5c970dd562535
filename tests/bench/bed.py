"""A private installation to measure: real servers, the five services as processes, gone afterwards.

It borrows venv, source and guest images from the installation that it lies in, so nothing is built a second time.
"""

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local import libvirt, network, pki, processes, settings
from deploy.local.installation import Installation
from deploy.local.services import ServiceProcess, fetch_health
from deploy.local.state import SERVICES, DeployError, State, write_private
from tests.bench.wire import Origin

NAME = "trial"  # short: sockets below it must fit into 108 bytes
BORROWED = ("venv", "app", "images", "bootstrap")
READY_TIMEOUT_S = 60.0
POLL_S = 0.05
KILL_TIMEOUT_S = 5.0
INSTANT = 'hypervisor = "instant"'
STAGES = "stages_at_once = 64"  # what an operator of forty machines would write


@dataclass(frozen=True)
class Fleet:
    """The machines of a bed: how many, and whether they are real."""

    size: int
    is_instant: bool
    firmware: str = "bios"
    routes: tuple[str, ...] = ("none",)

    @property
    def text(self) -> str:
        """The operator's file."""
        profile = (
            '[profile.linux]\nplatform = "linux"\nimage = "linux"\nmemory_mib = 512\nvcpus = 1\n'
            f'routes = {json.dumps(self.routes)}\nfirmware = "{self.firmware}"\n'
        )
        machines = (f'\n[[machine]]\nid = "linux-{number}"\nprofile = "linux"\n' for number in range(1, self.size + 1))
        return profile + "".join(machines)


class Bed:
    """One private installation while it is up."""

    def __init__(self, here: Installation, fleet: Fleet) -> None:
        self.here = here
        self.fleet = fleet
        self.origin = Origin(here.ports["gateway"], here.secrets.admin_token)

    def start(self, *names: str) -> None:
        """Those services run and are ready; all five when none is named. Raises DeployError."""
        for service in self._services(names):
            service.start()
        self._await(names or SERVICES)

    def stop(self, *names: str) -> None:
        """Those services have ended."""
        for service in self._services(names):
            service.stop()

    def stop_other(self, name: str) -> None:
        """The process of that name, no service of the five, has ended."""
        processes.stop(self.here.state, name)

    def pid(self, name: str) -> int:
        """The process of a service or server. Raises DeployError when it does not run."""
        found = processes.started(self.here.state, name)
        if found is None:
            raise DeployError(f"{name} does not run:\n{processes.log_tail(self.here.state, name)}")
        return found.pid

    def _services(self, names: Sequence[str]) -> list[ServiceProcess]:
        return [ServiceProcess(self.here.state, name, self.here.ports[name]) for name in names or SERVICES]

    def _await(self, names: Sequence[str]) -> None:
        for name in names:
            wait_until(f"{name} is ready", lambda name=name: self._is_ready(name), READY_TIMEOUT_S)  # type: ignore[misc]

    def _is_ready(self, name: str) -> bool:
        self.pid(name)
        said = fetch_health(self.here.ports["gateway"], name)
        return said is not None and bool(said["is_ready"])


@contextlib.contextmanager
def bed(
    main: State,
    fleet: Fleet,
    *,
    name: str = NAME,
    preferences: Mapping[str, Sequence[str]] | None = None,
    app: Path | None = None,
) -> Iterator[Bed]:
    """An empty installation with its servers and services up; nothing of it is left afterwards.

    `preferences` are lines for the settings of services, by service; `app` is source to run instead of the installed.
    """
    state = State(main.root / name)
    clear(state)
    try:
        yield _made(_prepared(main, state, app), fleet, preferences or {})
    finally:
        clear(state)


@contextlib.contextmanager
def servers_only(main: State) -> Iterator[Installation]:
    """An empty installation with PostgreSQL and RabbitMQ up and no service; nothing of it is left afterwards."""
    state = State(main.root / NAME)
    clear(state)
    try:
        here = _prepared(main, state, None)
        here.postgres().start()
        here.postgres().set_up()
        here.rabbitmq().start()
        yield here
    finally:
        clear(state)


def clear(state: State) -> None:
    """No process and no file of the bed is left. What is borrowed is only linked, and stays."""
    if not state.root.is_dir():
        return
    libvirt.stop(state)
    network.stop(state)  # by its own hand: it takes the guests' networks away
    for file in state.run.glob("*.pid"):  # nginx bears no mark: it writes over its environment
        processes.stop(state, file.stem, signal.SIGKILL, KILL_TIMEOUT_S)
    for identity in processes.leftovers(state):
        processes.end(identity, signal.SIGKILL, KILL_TIMEOUT_S)
    for name in BORROWED:
        if (state.root / name).is_symlink():
            (state.root / name).unlink()
    shutil.rmtree(state.root)


def wait_until(what: str, is_true: Callable[[], bool], timeout_s: float) -> None:
    """It is true. Raises DeployError, saying for what was waited in vain."""
    give_up_at = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > give_up_at:
            raise DeployError(f"waited {timeout_s:.0f} s in vain until {what}")
        time.sleep(POLL_S)


def _prepared(main: State, state: State, app: Path | None) -> Installation:
    state.root.mkdir()
    state.root.chmod(0o711)
    for name in BORROWED:
        if (main.root / name).exists():  # instant machines need no image
            (state.root / name).symlink_to(app if app is not None and name == "app" else main.root / name)
    here, _ = Installation.prepare(state)
    return here


def _made(here: Installation, fleet: Fleet, preferences: Mapping[str, Sequence[str]]) -> Bed:
    state = here.state
    pki.ensure(state)
    here.rabbitmq().start()
    database = here.postgres()
    database.start()
    database.set_up()
    if not fleet.is_instant:
        libvirt.start(state)
    write_private(settings.machines_file(state), fleet.text, mode=0o644)
    settings.write(here, libvirt.uri(state))
    _prefer(state, "plugins", STAGES)
    if fleet.is_instant:
        _prefer(state, "machines", INSTANT)
        _leave_out(state, "machines", "network_socket")  # machines that do not exist have no network
    elif network.is_possible():
        network.start(state)
    for service, lines in preferences.items():
        for line in lines:
            _prefer(state, service, line)
    here.nginx().start()
    made = Bed(here, fleet)
    made.start()
    return made


def _leave_out(state: State, service: str, key: str) -> None:
    """The service's settings say nothing of it."""
    file = state.settings_file(service)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = "".join(line for line in lines if not line.startswith(f"{key} = "))
    write_private(file, kept, state.users.of_service(service))


def _prefer(state: State, service: str, line: str) -> None:
    """The service's settings say so too."""
    file = state.settings_file(service)
    write_private(file, f"{line}\n{file.read_text(encoding='utf-8')}", state.users.of_service(service))
