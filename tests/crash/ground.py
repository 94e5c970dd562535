"""Where processes are made to die: a private installation of real servers and services with instant machines."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.local import accounts, processes
from deploy.local.ports import LOOPBACK
from deploy.local.processes import Identity
from deploy.local.services import ServiceProcess
from deploy.local.state import SERVICES, DeployError, State, locate, own_directory, write_private
from services.chassis import crash_points
from tests.bench.bed import Bed, Fleet, bed

CHECKOUT = Path(__file__).resolve().parents[2]
NAME = "crash"
MACHINES = 3
DEATH_TIMEOUT_S = 120.0
KILL_TIMEOUT_S = 5.0


class Ground:
    """The installation while it is up. Nobody but the harness starts anything again."""

    def __init__(self, made: Bed) -> None:
        self.bed = made
        self.state = made.here.state

    def arm(self, service: str, where: str) -> Identity:
        """The service was stopped, and runs again as a process that dies where it was told to."""
        self.bed.stop(service)
        return self.start(service, {crash_points.VARIABLE: where})

    def start(self, service: str, environment: dict[str, str] | None = None) -> Identity:
        """The service's process runs, with that much more in its environment; it may not be ready yet."""
        return ServiceProcess(self.state, service, self.bed.here.ports[service]).start(environment)

    def start_replica(self, service: str, port: int) -> Identity:
        """A second process of the service runs beside the first, with a port and a scratch directory of its own."""
        name = f"{service}-2"
        own_directory(self.state.scratch / name, self.state.users.of_service(service), 0o700)
        text = self.state.settings_file(service).read_text(encoding="utf-8")
        text = text.replace(f"http_port = {self.bed.here.ports[service]}", f"http_port = {port}")
        text = text.replace(str(self.state.scratch / service), str(self.state.scratch / name))
        write_private(self.state.settings_file(name), text, self.state.users.of_service(service))
        command = ServiceProcess(self.state, service, port)._command()
        env = {**command.env, "MALBOX_CONFIG": str(self.state.settings_file(name))}
        return processes.spawn(self.state, dataclasses.replace(command, name=name, env=env))

    def signal(self, name: str, number: signal.Signals) -> None:
        """The process of that name was sent the signal. Raises DeployError when it does not run."""
        os.kill(self.bed.pid(name), number)

    def revive(self) -> list[str]:
        """Every service that does not run runs again; their names."""
        dead = [service for service in SERVICES if processes.started(self.state, service) is None]
        for service in dead:
            self.start(service)
        return dead

    @contextlib.contextmanager
    def database_at(self, port: int, services: Sequence[str] = SERVICES) -> Iterator[None]:
        """Those services reach the database through another port for as long as the block lasts."""
        files = {service: self.state.settings_file(service) for service in services}
        before = {service: file.read_text(encoding="utf-8") for service, file in files.items()}
        usual, other = (f"@{LOOPBACK}:{number}/" for number in (self.bed.here.ports["postgres"], port))
        try:
            self._settle(services, {service: text.replace(usual, other) for service, text in before.items()})
            yield
        finally:
            self._settle(services, before)

    def _settle(self, services: Sequence[str], texts: Mapping[str, str]) -> None:
        self.bed.stop(*services)
        for service in services:
            user = self.state.users.of_service(service)
            write_private(self.state.settings_file(service), texts[service], user)
        self.bed.start(*services)

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash would."""
        identity = processes.started(self.state, name)
        if identity is not None:
            processes.end(identity, signal.SIGKILL, KILL_TIMEOUT_S)

    def last_words(self) -> str:
        """The last that every process said."""
        names = sorted(path.stem for path in self.state.log.glob("*.log"))
        return "\n".join(f"{name}:\n{processes.log_tail(self.state, name, lines=8)}" for name in names)


def wait_for_sigkill(identity: Identity) -> None:
    """The process, a child of ours, died by SIGKILL. Raises DeployError when it does not, or ends in another way."""
    descriptor = identity.open_pidfd()
    if descriptor is not None:
        try:
            if not processes.has_ended(descriptor, DEATH_TIMEOUT_S):
                raise DeployError(f"process {identity.pid} lives on after {DEATH_TIMEOUT_S:.0f} s")
        finally:
            os.close(descriptor)
    _, status = os.waitpid(identity.pid, 0)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        raise DeployError(f"process {identity.pid} ended by itself, with status {status}")


@contextlib.contextmanager
def ground(machines: int = MACHINES, name: str = NAME, app: Path | None = None) -> Iterator[Ground]:
    """An empty installation, everything up; nothing of it is left afterwards. Raises DeployError.

    Its processes run the source in `app`, where one is given.
    """
    accounts.ensure()
    main = set_up()
    state = State(main.root / name)
    preferences = {
        "machines": [f'instant_fences_dir = "{state.machines / "fences"}"'],
        "plugins": ["guest_connect_timeout_s = 3.0"],  # a fake guest answers at once or is gone
    }
    with bed(main, Fleet(machines, is_instant=True), name=name, preferences=preferences, app=app) as made:
        yield Ground(made)


def set_up() -> State:
    """The installation that the checkout has. Raises DeployError when it has none."""
    main = locate(CHECKOUT)
    if not (main.app / "digest").exists():
        raise DeployError(f"nothing is set up at {main.root}: run `make test` or deploy/bootstrap.sh --dev")
    return main
