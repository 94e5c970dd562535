"""What runs, since when, and whether it is ready."""

import os
import time
from dataclasses import dataclass

from deploy.local import guest_group, libvirt, network, nginx, postgres, processes, rabbitmq, settings, supervisor
from deploy.local.installation import Installation
from deploy.local.ports import LOOPBACK
from deploy.local.services import fetch_health
from deploy.local.state import SERVICES, State

SERVERS = (postgres.NAME, rabbitmq.MAPPER, rabbitmq.NAME, libvirt.NAME, nginx.NAME, supervisor.NAME)


@dataclass(frozen=True)
class PartStatus:
    """One process."""

    name: str
    pid: int | None
    since_s: float | None
    is_ready: bool
    detail: str


@dataclass(frozen=True)
class Status:
    """The whole installation."""

    state_dir: str
    url: str
    parts: list[PartStatus]

    @property
    def is_ready(self) -> bool:
        """Whether work is accepted and done."""
        return all(part.is_ready for part in self.parts)

    @property
    def is_running(self) -> bool:
        """Whether anything of it runs."""
        return any(part.pid for part in self.parts)


def status(state: State) -> Status:
    """The state of every part. Raises DeployError when nothing is installed."""
    here = Installation.open(state)
    helper = (network.NAME,) if network.settings_file(state).exists() else ()
    found = [_server(here, name) for name in (*SERVERS, *helper)] + [_service(here, name) for name in SERVICES]
    return Status(str(state.root), settings.gateway_url(here.ports), found)


def _server(here: Installation, name: str) -> PartStatus:
    identity = processes.started(here.state, name)
    if identity is None:
        return PartStatus(name, None, None, is_ready=False, detail="not running")
    answers = {
        rabbitmq.NAME: lambda: rabbitmq.answers(here.ports["amqp"]),
        nginx.NAME: lambda: nginx.accepts(here.ports["gateway"]),
        postgres.NAME: lambda: nginx.accepts(here.ports["postgres"]),
        libvirt.NAME: lambda: libvirt.answers(here.state),
        network.NAME: lambda: network.socket_file(here.state).exists(),
    }.get(name, lambda: True)()
    port = {rabbitmq.NAME: "amqp", nginx.NAME: "gateway", postgres.NAME: "postgres"}.get(name)
    where = (
        f"{LOOPBACK}:{here.ports[port]}" if port else _room(here.state, identity.pid) if name == libvirt.NAME else ""
    )
    return PartStatus(name, identity.pid, age_s(identity), is_ready=answers, detail=where if answers else "no answer")


def _room(state: State, daemon: int) -> str:
    """What guests may use up of the host."""
    group = guest_group.remembered(state)
    if group is None or not group.holds(daemon):
        return "guests are in no control group: nothing limits what they use up of the host"
    limited, unlimited = guest_group.said(group)
    return f"guests have at most {limited}" + (f"; no limit on {unlimited}" if unlimited else "")


def _service(here: Installation, name: str) -> PartStatus:
    identity = processes.started(here.state, name)
    if identity is None:
        return PartStatus(name, None, None, is_ready=False, detail="not running")
    said = fetch_health(here.ports[name], name)
    if said is None:
        return PartStatus(name, identity.pid, age_s(identity), is_ready=False, detail="does not answer")
    keys = sorted(set(said) - {"service", "is_ready"})
    detail = ", ".join(f"{key} {said[key]}" for key in keys)
    return PartStatus(name, identity.pid, age_s(identity), is_ready=bool(said["is_ready"]), detail=detail)


def age_s(identity: processes.Identity) -> float:
    """How long the process has run."""
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return round(since_boot_s - identity.started_ticks / os.sysconf("SC_CLK_TCK"), 1)
