"""Stops exactly what this installation started, and nothing else."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from deploy.local import nginx, parts, plugin_group, processes, rabbitmq, supervisor
from deploy.local.installation import Installation
from deploy.local.parts import Part
from deploy.local.progress import Progress, run_together, silent
from deploy.local.state import State

LEFTOVER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Stopped:
    """What is true after `down`."""

    was_running: bool
    took_s: float


def down(state: State, progress: Progress = silent) -> Stopped:
    """Nothing of the installation runs. Data, settings and images stay. Raises DeployError."""
    began_s = time.monotonic()
    here = Installation.open(state)
    ran = [supervisor.stop(state)]
    servers = {part.name: part for part in parts.servers(here)}
    gateway = servers.pop(nginx.NAME)
    servers.pop(rabbitmq.MAPPER)  # the broker ends its port mapper itself
    for group in ([*parts.services(here), gateway], list(servers.values())):
        run_together({part.name: _stage(part, ran) for part in group}, progress)
    remaining = processes.leftovers(state)
    ran += [processes.end(identity, signal.SIGTERM, LEFTOVER_TIMEOUT_S) for identity in remaining]
    plugin_group.remove(state)
    return Stopped(any(ran), time.monotonic() - began_s)


def _stage(part: Part, ran: list[bool]) -> Callable[[], str]:
    def stop() -> str:
        was_running = part.stop()
        ran.append(was_running)
        return "stopped" if was_running else "was not running"

    return stop
