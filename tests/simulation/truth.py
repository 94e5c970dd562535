"""What has to hold, judged by the simulated world itself: every event as it is committed, every sample as it starts."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

from contracts.ids import derived
from services.machines.domain import lifecycle as machine_lifecycle
from services.machines.domain.machine import Machine
from services.scheduler.domain import lifecycle as task_lifecycle
from services.scheduler.domain.task import Task
from tests.simulation.world import Life, SimWorld

Decode = Callable[[UUID, int, str, bytes], Any]
OUT_OF_THE_POOL = frozenset({"quarantined", "retired", "maintenance"})


class Truth:
    """Watches, and writes down what must not be."""

    def __init__(self, world: SimWorld, counts: Counter[str], decode: Decode) -> None:
        self.world = world
        self.counts = counts
        self.violations: list[str] = []
        self.leases: dict[str, str] = {}
        """Which task each lease was granted to: for ever, if a host acted for it, whatever a database forgets."""
        self._grants: dict[str, tuple[str, int]] = {}
        """The machine and the epoch of each lease."""
        self.ends: Counter[str] = Counter()
        self.recorded_at = 0.0
        """When the last event was committed."""
        self.is_replaying = False
        """Whether what is heard was committed, and judged, before."""
        self.names: dict[str, str] = {}
        """The task that each sample belongs to, by the sample's name."""
        self._decode = decode
        self.on_moved: list[Callable[[Machine | Task], None]] = []
        """Called as an event of a machine or of a task is committed: a moment at which more may happen to it."""
        self._machines: dict[UUID, Machine] = {}
        self._broken_out: set[str] = set()
        self._on_record: set[str | None] = set()
        """The leases whose guests are on record as having broken out: none has to be there twice."""
        self._left: set[str] = set()
        """Machines that left the pool and were not verified since, wherever a person's word brought them."""
        self._tasks: dict[UUID, Task] = {}

    def wrong(self, words: str) -> None:
        """Something that must not be is."""
        if self.is_replaying:
            return
        self.violations.append(f"{self.world.loop.now:.3f} {words}")

    def forget(self) -> None:
        """The databases were restored: their records begin anew, and a grant that nobody acted for was never one."""
        for lease_id, (machine_id, epoch) in self._grants.items():
            if self.world.host(machine_id).highest.epoch < epoch:
                self.leases.pop(lease_id, None)
        self._machines.clear()
        self._broken_out.clear()
        self._on_record.clear()
        self._left.clear()
        for host in self.world.hosts.values():
            host.broke_out = None
        self._tasks.clear()
        self.ends.clear()

    def forget_machines(self) -> None:
        """The record of machines is gone."""
        self._machines.clear()

    def machines_events(self, rows: list[tuple[UUID, int, str, bytes]]) -> None:
        """Events of machines were committed."""
        self.recorded_at = self.world.loop.now
        for row in rows:
            event = self._decode(*row)
            before = self._machines.get(row[0])
            state, epoch = (before.state, before.epoch) if before is not None else ("", 0)
            name = type(event).__name__
            self.counts[f"cell machine {state or '-'} {name}"] += 1
            machine = self._moved(event, before)
            if machine is None:
                continue
            self._machines[row[0]] = machine
            if machine.state in OUT_OF_THE_POOL:
                self._left.add(machine.machine_id)
            elif name == "CleanVerified":
                self._left.discard(machine.machine_id)
            self._tell(machine)
            self._judge_breach(machine, event)
            if machine.epoch < epoch:
                self.wrong(f"{machine.machine_id}: epoch {epoch} was followed by {machine.epoch}")
            if name == "CleanVerified":
                self._ready(machine)
            elif name == "Cleaned":
                self._cleaned(machine)
            elif name == "Leased":
                self._leased(machine)

    def _tell(self, moved: Machine | Task) -> None:
        for heard in () if self.is_replaying else self.on_moved:
            heard(moved)

    def _moved(self, event: Any, before: Any) -> Any:
        """What the event makes of it; an event that cannot have happened is a violation."""
        try:
            return event.mutate(before)
        except Exception as error:  # noqa: BLE001 - whatever it says, it does not follow
            self.wrong(f"{type(event).__name__} does not follow from what was recorded before: {error!r}")
            return None

    def _judge_breach(self, machine: Machine, event: Any) -> None:
        """A machine whose guest got out is verified only after a person's word, and that it got out is on record."""
        host, name = self.world.host(machine.machine_id), type(event).__name__
        if name == "IsolationBreached":
            self._broken_out.add(machine.machine_id)
            self._on_record.add(host.broke_out)
            host.broke_out = None
        elif name == "Returned" or (name == "ProvisioningStarted" and event.by):
            self._broken_out.discard(machine.machine_id)
            host.broke_out = None
        elif name == "CleanVerified" and machine.machine_id in self._broken_out:
            self.wrong(f"{machine.machine_id} was called clean after its guest broke out, and no person said so")
        elif name == "CleanVerified" and host.broke_out not in {None, *self._on_record}:
            self.wrong(f"{machine.machine_id} was called clean, and the breach of {host.broke_out} is on no record")

    def _cleaned(self, machine: Machine) -> None:
        """Nothing of an earlier epoch is left."""
        host = self.world.host(machine.machine_id)
        if any(not life.is_gone and life.epoch < machine.epoch for life in host.lives):
            self.wrong(f"{machine.machine_id} was called cleaned at epoch {machine.epoch} and still runs")

    def _ready(self, machine: Machine) -> None:
        """Ready implies really clean, and an incarnation that serves the next lease."""
        host = self.world.host(machine.machine_id)
        serves = host.life.lease_id if host.life is not None else None
        if serves != derived("lea", machine.machine_id, machine.epoch + 1) and not host.is_disturbed:
            self.wrong(f"{machine.machine_id} was called ready at epoch {machine.epoch} and serves {serves}")
        lives = [life for life in host.lives if not life.is_gone]
        if any(life.is_tainted for life in lives):
            self.wrong(f"{machine.machine_id} was called clean at epoch {machine.epoch} and a sample ran on it")
        if len(lives) > 1:
            self.wrong(f"{machine.machine_id} was called clean and has {len(lives)} processes")

    def _leased(self, machine: Machine) -> None:
        """One lease, one task, one clean incarnation."""
        lease_id, task_id = str(machine.lease_id), str(machine.task_id)
        self._grants[lease_id] = (machine.machine_id, machine.epoch)
        if self.leases.setdefault(lease_id, task_id) != task_id:
            self.wrong(f"{machine.machine_id}: lease {lease_id} of two tasks")
        if lease_id != derived("lea", machine.machine_id, machine.epoch):
            self.wrong(f"{machine.machine_id}: lease {lease_id} is not that of epoch {machine.epoch}")
        life = self.world.host(machine.machine_id).life
        if life is not None and life.is_tainted:
            self.wrong(f"{machine.machine_id} was leased at epoch {machine.epoch} and a sample had run on it")

    def scheduler_events(self, rows: list[tuple[UUID, int, str, bytes]]) -> None:
        """Events of tasks were committed."""
        self.recorded_at = self.world.loop.now
        for row in rows:
            event = self._decode(*row)
            before = self._tasks.get(row[0])
            name = type(event).__name__
            self.counts[f"cell task {before.state if before is not None else '-'} {name}"] += 1
            task = self._moved(event, before)
            if task is None:
                continue
            self._tasks[row[0]] = task
            self._tell(task)
            if name in ("Completed", "Failed", "TimedOut", "Cancelled", "Refused", "Unserviceable"):
                self._ended(task)

    def _ended(self, task: Task) -> None:
        """Exactly one end, and the machine clean or out of the pool by then."""
        self.ends[task.task_id] += 1
        self.counts[f"task {task.state}"] += 1
        if self.ends[task.task_id] > 1:
            self.wrong(f"task {task.task_id} ended {self.ends[task.task_id]} times")
        for host in self.world.hosts.values():
            for life in host.lives:
                is_ours = any(self.names.get(name) == task.task_id for name, _ in life.samples)
                if is_ours and not life.is_gone and host.machine_id not in self._left:
                    self.wrong(f"task {task.task_id} ended {task.state} while {host.machine_id} still runs its sample")

    def launched(self, life: Life, sample: str, lease_id: str) -> None:
        """A sample starts on an incarnation."""
        task_id = self.names.get(sample)
        owner = self.leases.get(lease_id)
        if life.lease_id != lease_id:
            self.wrong(f"{sample} was started by {lease_id} on {life.machine_id}, which serves {life.lease_id}")
        if task_id is not None and owner != task_id:
            self.wrong(f"{sample} of {task_id} was started under the lease of {owner}")
        if len({lease for _, lease in life.samples}) > 1 or len({name for name, _ in life.samples}) > 1:
            self.wrong(f"life {life.number} of {life.machine_id} ran {life.samples}")

    def machine(self, machine_id: str) -> Machine | None:
        """The machine as its events say."""
        return self._machines.get(Machine.stream(machine_id))

    def task(self, task_id: str) -> Task | None:
        """The task as its events say."""
        return next((task for task in self._tasks.values() if task.task_id == task_id), None)


def cells() -> list[str]:
    """Every cell of both lifecycles, as they are counted."""
    machine = [f"cell machine {state} {event}" for state, event in machine_lifecycle.TRANSITIONS]
    task = [f"cell task {state} {event}" for state, event in task_lifecycle.TRANSITIONS]
    return sorted({*machine, *task})
