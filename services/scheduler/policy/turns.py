"""Whose turn it is when a machine is free: priority, then fair share between owners, then age. Pure.

Fair share is start-time fair queuing (Goyal, Vin and Cheng, SIGCOMM 1996) over seconds of machine time, each priority
by itself. An owner who is given a machine pays what the task may cost; whoever has paid least comes first. A clock per
priority stands at what the last who was chosen had paid: nobody who was away comes back with more credit than that.

`queue.sql` does the same inside PostgreSQL, where it costs a few index look-ups; a test holds the two together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from contracts.machines import MachineSummary
from contracts.submission import AnalysisRequest

ANY = ""
OVERHEAD_S = 30
"""What a task costs its owner beside the observation that was asked for."""


@dataclass(frozen=True)
class Waiting:
    """One task that waits. `machine_id` is ANY, or the only machine that will do; `terms` are what it has to offer."""

    task_id: str
    owner: str
    priority: int
    profile: str
    machine_id: str
    terms: str
    queued_at: datetime
    cost_s: int


@dataclass
class Turns:
    """Who waits, who holds a machine, and how much everybody was given."""

    running_per_owner_max: int
    waiting: dict[str, Waiting] = field(default_factory=dict)
    holding: dict[str, tuple[Waiting, bool]] = field(default_factory=dict)
    shares: dict[tuple[str, int], int] = field(default_factory=dict)
    clocks: dict[int, int] = field(default_factory=dict)

    def enter(self, task: Waiting) -> None:
        """The task waits. One that was promised a machine and never had it pays nothing for the promise."""
        purse = (task.owner, task.priority)
        held = self.holding.pop(task.task_id, None)
        if held is not None and not held[1]:
            self.shares[purse] -= held[0].cost_s
        if task.task_id in self.waiting:
            return
        if not any((other.owner, other.priority) == purse for other in self.waiting.values()):
            self.shares[purse] = max(self.shares.get(purse, 0), self.clocks.get(task.priority, 0))
        self.waiting[task.task_id] = task

    def take(self, task_id: str, *, is_granted: bool = False) -> None:
        """The task was promised a machine, or has it."""
        task = self.waiting.pop(task_id, None)
        if task is not None:
            purse = (task.owner, task.priority)
            clock = self.clocks[task.priority] = max(self.clocks.get(task.priority, 0), self.shares[purse])
            self.shares[purse] = clock + task.cost_s
            self.holding[task_id] = (task, is_granted)
        elif task_id in self.holding:
            self.holding[task_id] = (self.holding[task_id][0], is_granted)

    def stand_aside(self, task_id: str) -> None:
        """The task neither waits nor has a machine."""
        self.waiting.pop(task_id, None)
        self.holding.pop(task_id, None)

    def next(self, ready: Iterable[MachineSummary]) -> tuple[str, str] | None:
        """(task, machine) of the next match, or None: a task that cannot run now stands in nobody's way."""
        machines = list(ready)
        able = [task for task in self.waiting.values() if self._may_have_more(task.owner)]
        able = [task for task in able if any(serves(machine, task) for machine in machines)]
        if not able:
            return None
        first = min(able, key=self._order)
        fitting = [machine for machine in machines if serves(machine, first)]
        return first.task_id, min(fitting, key=self._least_missed).machine_id

    def _order(self, task: Waiting) -> tuple[int, int, datetime, str]:
        return (-task.priority, self.shares[task.owner, task.priority], task.queued_at, task.task_id)

    def _least_missed(self, machine: MachineSummary) -> tuple[bool, int, str]:
        """A machine that some task must have, or that offers more, is kept for who needs it."""
        is_wanted = any(
            task.machine_id == machine.machine_id and serves(machine, task) and self._may_have_more(task.owner)
            for task in self.waiting.values()
        )
        return (is_wanted, len(machine.offers), machine.machine_id)

    def _may_have_more(self, owner: str) -> bool:
        return sum(task.owner == owner for task, _ in self.holding.values()) < self.running_per_owner_max


def serves(machine: MachineSummary, task: Waiting) -> bool:
    """Whether the machine, once it is free, may run the task."""
    return (
        machine.profile == task.profile
        and task.machine_id in (ANY, machine.machine_id)
        and task.terms in machine.offers
    )


def could_serve(machine: MachineSummary, request: AnalysisRequest) -> bool:
    """Whether the machine could ever run what is asked."""
    return (
        machine.profile == request.profile
        and request.machine in (None, machine.machine_id)
        and request.terms in machine.offers
    )


def cost_s(request: AnalysisRequest) -> int:
    """Seconds of machine time that the task may take, by what was asked."""
    return request.timeout_s + OVERHEAD_S


def wanted(request: AnalysisRequest) -> str:
    """Which machines would do, in words."""
    which = f"machine {request.machine}" if request.machine else f"a machine of profile {request.profile}"
    route = "" if request.route == "none" else f" with the route {request.route}"
    return f"{which}{route}{' for untrusted samples' if request.untrusted else ''}"


def occupation(conditions: Mapping[str, str]) -> str:
    """What the machines that would do are busy with, in words: `2 are leased, 1 is quarantined`."""
    counts: dict[str, int] = {}
    for condition in conditions.values():
        counts[condition] = counts.get(condition, 0) + 1
    return ", ".join(f"{count} {'is' if count == 1 else 'are'} {name}" for name, count in sorted(counts.items()))
