"""Where processes are made to die: a private installation of real servers and services with instant machines."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from deploy.local import accounts, processes
from deploy.local.processes import Identity
from deploy.local.services import ServiceProcess
from deploy.local.state import SERVICES, DeployError, State, locate
from services.chassis import crash_points
from tests.bench.bed import Bed, Fleet, bed

CHECKOUT = Path(__file__).resolve().parents[2]
NAME = "crash"
MACHINES = 3
DEATH_TIMEOUT_S = 60.0
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
        command = ServiceProcess(self.state, service, self.bed.here.ports[service])._command()
        return processes.spawn(self.state, dataclasses.replace(command, env={**command.env, **(environment or {})}))

    def revive(self) -> list[str]:
        """Every service that does not run runs again; their names."""
        dead = [service for service in SERVICES if processes.started(self.state, service) is None]
        for service in dead:
            self.start(service)
        return dead

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash would."""
        identity = processes.started(self.state, name)
        if identity is not None:
            processes.end(identity, signal.SIGKILL, KILL_TIMEOUT_S)

    def log_tail(self, service: str) -> str:
        """The last that it said."""
        return processes.log_tail(self.state, service, lines=6)


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
def ground(machines: int = MACHINES, name: str = NAME) -> Iterator[Ground]:
    """An empty installation, everything up; nothing of it is left afterwards. Raises DeployError."""
    accounts.ensure()
    main = locate(CHECKOUT)
    if not (main.app / "digest").exists():
        raise DeployError(f"nothing is set up at {main.root}: run `make test` or deploy/bootstrap.sh --dev")
    state = State(main.root / name)
    preferences = {
        "machines": [f'instant_fences_dir = "{state.machines / "fences"}"'],
        "plugins": ["guest_connect_timeout_s = 3.0"],  # a fake guest answers at once or is gone
    }
    with bed(main, Fleet(machines, is_instant=True), name=name, preferences=preferences) as made:
        yield Ground(made)
