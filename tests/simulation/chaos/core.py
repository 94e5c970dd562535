"""The faults: each is drawn from the seed, counted when it happens, and over when the time of faults is over."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from services.machines.domain.machine import Machine
from services.scheduler.domain.task import Task
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.run import Simulation
    from tests.simulation.services import SimService

Moved = TypeVar("Moved", Machine, Task)
BRIEF = 10
BRIEF_STATES = frozenset({"registered", "preparing", "draining", "collecting"})
Fault = Callable[["Chaos"], Coroutine[Any, Any, None]]
FAULTS: dict[str, tuple[float, Fault]] = {}
"""Name -> (how likely a seed has it, what makes it happen until the faults end)."""
EVENTFUL: set[str] = set()
"""Faults that only eventful seeds have."""


def fault(share: float, *, is_common: bool = True) -> Callable[[Fault], Fault]:
    """The function is a fault that so large a share of the seeds has, or of the eventful ones."""

    def kept(function: Fault) -> Fault:
        FAULTS[function.__name__] = (share, function)
        if not is_common:
            EVENTFUL.add(function.__name__)
        return function

    return kept


class Chaos:
    """Makes faults happen in one simulation, until they are over."""

    def __init__(self, sim: "Simulation") -> None:
        self.sim = sim
        self.rng = sim.rng
        self.is_over = False
        self.undone = ExitStack()
        """What is as it was again when the faults are over."""
        self.zombies: list[SimService] = []
        self.chosen = [name for name in FAULTS if name not in EVENTFUL and self._is_drawn(name)]
        if sim.is_eventful:
            self.chosen += [name for name in FAULTS if name in EVENTFUL and self._is_drawn(name)]
        self._wanted: list[Callable[[Process], None]] = []

    def _is_drawn(self, name: str) -> bool:
        return self.rng.random() < FAULTS[name][0]

    def start(self) -> None:
        """The chosen faults begin."""
        for name in self.chosen:
            self.sim.counts[f"chosen {name}"] += 1
            self.sim.loop.world.spawn(FAULTS[name][1](self))

    def count(self, name: str) -> None:
        """The fault happened."""
        self.sim.counts[f"fault {name}"] += 1

    async def after(self, mean_s: float) -> bool:
        """Whether faults are still to happen, some time later."""
        await asyncio.sleep(self.rng.expovariate(1 / mean_s))
        return not self.is_over

    def as_it_moves(self, kind: type[Moved], share: float, act: Callable[[Moved], None]) -> None:
        """In that share of its events something is done about the machine or the task, as the event is committed.

        In states that do not last it is done more often.
        """

        def heard(moved: Machine | Task) -> None:
            if not isinstance(moved, kind) or self.is_over:
                return
            if self.rng.random() < share * (BRIEF if moved.state in BRIEF_STATES else 1):
                act(moved)

        self.sim.truth.on_moved.append(heard)

    def at_an_await(self, act: Callable[[Process], None]) -> None:
        """The next process that is about to go on after some drawn step is acted on instead."""
        self._wanted.append(act)
        self.sim.loop.on_countdown = self._reached
        self.sim.loop.countdown = self.rng.randrange(400)

    def _reached(self, process: Process) -> None:
        wanted, self._wanted = self._wanted, []
        for act in wanted:
            if not self.is_over:
                act(process)

    def end(self) -> None:
        """No fault happens any more, and what can be mended is."""
        sim = self.sim
        self.is_over = True
        self.undone.close()
        sim.stores.ambiguous_rate = 0.0
        sim.stores.is_down = False
        sim.stores.cut.clear()
        sim.broker.duplicate_rate = sim.broker.delay_rate = sim.broker.lost_confirm_rate = 0.0
        sim.world.collect_max_s = 0.0
        sim.world.impostor_rate = sim.world.thief_rate = 0.0
        sim.world.failure_rate = sim.world.slow_rate = sim.world.unkillable_rate = sim.world.mute_rate = 0.0
        sim.world.is_down = sim.world.is_network_down = sim.world.is_image_missing = False
        sim.blobs.failure_rate = sim.sandbox.crash_rate = 0.0
        if sim.broker.is_down or sim.broker.cut:
            sim.broker.is_down = False
            sim.broker.cut.clear()
            for service in sim.everybody():
                if service.consumer is not None:
                    service.consumer.reconnect()
        for service in sim.everybody():
            if service.process.is_paused:
                service.process.resume()

    def service_of(self, process: Process) -> "SimService | None":
        """The service whose process that is."""
        return next((service for service in self.sim.everybody() if service.process is process), None)

    def anyone(self) -> "SimService":
        """A service that runs, or the last that did."""
        running = [self.sim.live[name] for name in sorted(self.sim.live)]
        return self.rng.choice(running) if running else self.sim.latest
