"""A host in memory: machines, their incarnations, overlays, the host's fence; and how likely what goes wrong there is.

What it holds is the ground truth: whose sample ran on which incarnation, and whether that is clean. The services see it
only through their ports.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from services.machines.adapters.memory_network import MemoryNetwork
from services.machines.domain.fence import UNTOUCHED, Fence
from services.machines.errors import HypervisorUnavailable
from tests.simulation.loop import Process, SimLoop


@dataclass(eq=False)
class Life:
    """One incarnation: a hypervisor process on an overlay of its own. Never started twice."""

    number: int
    machine_id: str
    epoch: int
    authority: bytes
    is_running: bool = True
    is_gone: bool = False
    is_unkillable: bool = False
    is_mute: bool = False
    identity: str | None = None
    resumed_for: str | None = None
    lease_id: str | None = None
    lease_epoch: int = -1
    term: int = 0
    samples: list[tuple[str, str]] = field(default_factory=list)
    """(task, lease) of every sample that was launched here: more than one lease is a violation."""
    guest: Any = None

    @property
    def is_tainted(self) -> bool:
        """Whether a sample has run."""
        return bool(self.samples)


@dataclass(eq=False)
class Host:
    """What one machine is on its host."""

    machine_id: str
    port: int
    fence: Fence = UNTOUCHED
    highest: Fence = UNTOUCHED
    """The latest that anybody ever asked for: what the fence should know."""
    standing: int | None = None
    """The incarnation that was verified and stands still."""
    is_disturbed: bool = False
    """Whether something that no service did happened to its present incarnation."""
    warm_epoch: int | None = None
    warm_authority: bytes = b""
    life: Life | None = None
    overlays: set[int] = field(default_factory=set)
    lives: list[Life] = field(default_factory=list)
    lock: object | None = None
    broke_out: str | None = None
    """The lease whose guest's walls were opened, until that is on record or nothing is left that shows it."""


class SimWorld:
    """Everything outside of the services that runs machines."""

    def __init__(self, loop: SimLoop, rng: Random, counts: Counter[str]) -> None:
        self.loop = loop
        self.rng = rng
        self.counts = counts
        self.hosts: dict[str, Host] = {}
        self.image = "image-1"
        self.is_down = False
        self.is_image_missing = False
        self.is_network_down = False
        self.networks = MemoryNetwork(("none", "simulated"))
        self.failure_rate = 0.0
        self.slow_rate = 0.0
        self.late_rate = 0.5
        self.unkillable_rate = 0.0
        self.mute_rate = 0.0
        self.impostor_rate = 0.0
        self.thief_rate = 0.0
        self.collect_max_s = 0.0
        self.waited_until = 0.0
        """When a guest that never answers was last given up: until then it is a fault that goes on."""
        self.on_act: Callable[[Process, str], None] = lambda _process, _machine_id: None
        """Called when a process is about to act on a machine: a moment at which it may be made to stand still."""
        self.on_request: Callable[[Process, str], float] = lambda _process, _machine_id: self.rng.random() * 0.01
        """Called when a request to an agent is sent: how long it is on its way, seconds."""
        self.on_wrong: Callable[[str], None] = lambda _words: None
        self.on_launch: Callable[[Life, str, str], None] = lambda _life, _sample, _lease_id: None
        self._lives = 0
        self._authorities = 0

    def host(self, machine_id: str) -> Host:
        """The machine's place on the host."""
        if machine_id not in self.hosts:
            self.hosts[machine_id] = Host(machine_id, 10_000 + len(self.hosts))
        return self.hosts[machine_id]

    def at_port(self, port: int) -> Life | None:
        """What answers there."""
        for host in self.hosts.values():
            if host.port == port:
                return host.life if host.life and host.life.is_running else None
        return None

    def born(self, host: Host, epoch: int) -> Life:
        """A fresh incarnation runs."""
        self._lives += 1
        life = Life(self._lives, host.machine_id, epoch, host.warm_authority)
        life.is_unkillable = self.unkillable_rate > 0 and self.rng.random() < self.unkillable_rate
        life.is_mute = self.mute_rate > 0 and self.rng.random() < self.mute_rate
        self.counts["fault guest mute"] += life.is_mute
        if self.impostor_rate and self.rng.random() < self.impostor_rate:
            self.counts["fault guest impostor"] += 1
            life.authority = b"somebody else's"
        host.overlays.add(epoch)
        host.life = life
        host.is_disturbed = False
        host.lives.append(life)
        return life

    def end(self, host: Host) -> None:
        """Its process is gone. Raises HypervisorUnavailable when it cannot be killed."""
        life = host.life
        if life is None:
            return
        if life.is_unkillable:
            self.counts["kill_failed"] += 1
            raise HypervisorUnavailable(f"the process of {host.machine_id} does not end")
        self.gone(host)

    def gone(self, host: Host) -> None:
        """The incarnation is no more, by whatever hand."""
        life, host.life = host.life, None
        host.is_disturbed = True
        if life is not None:
            life.is_gone = True
            life.is_running = False
            if life.guest is not None:
                life.guest.end()

    def replace(self, host: Host) -> None:
        """Another incarnation stands there, of the same epoch, and nobody verified it."""
        epoch = host.life.epoch if host.life is not None else 0
        self.gone(host)
        self.born(host, epoch).is_running = False
        host.is_disturbed = True

    def break_out(self, machine_id: str) -> None:
        """The walls of the machine's network are open."""
        self.host(machine_id).broke_out = self.networks.open_networks()[machine_id]
        self.networks.break_isolation(machine_id, "a rule is gone")

    def lose_networks(self) -> None:
        """Every network is gone, and what they looked like."""
        self.networks.lose()
        for host in self.hosts.values():
            host.broke_out = None

    def next_authority(self) -> int:
        """A number never used before."""
        self._authorities += 1
        return self._authorities
