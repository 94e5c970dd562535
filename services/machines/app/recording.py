"""What happened goes into the unit, with the work that follows from it and the timers that end what nobody ends."""

from datetime import timedelta
from typing import Any

from services.chassis.unit import Unit
from services.machines.domain.machine import Machine
from services.machines.policy import STATE_MAX_S, calls_for_work, self_cure_delay_s, work_for


def record(unit: Unit, machine: Machine) -> None:
    """The machine's new events are in the unit, with the work and the timers that its state calls for."""
    is_new = any(calls_for_work(event) for event in machine.pending_events)
    unit.save(machine)
    if is_new:
        begin_work(unit, machine)
        set_timers(unit, machine)


def begin_work(unit: Unit, machine: Machine, *, after_s: float = 0.0) -> None:
    """The work of the machine's state is to be done; asking again for the same is one request."""
    kind = work_for(machine)
    if kind is not None:
        payload = {"machine_id": machine.machine_id, "epoch": machine.epoch, "task_id": machine.task_id}
        key = f"{machine.machine_id}:{machine.epoch}:{machine.cleaning_failures}"
        unit.enqueue(kind, key, payload, due_at=unit.at + timedelta(seconds=after_s))


def set_timers(unit: Unit, machine: Machine) -> None:
    """What ends the machine's state if nobody else does is due: the lease's deadline, the state's own, the cure."""
    of: dict[str, Any] = {"machine_id": machine.machine_id, "epoch": machine.epoch}
    key = f"{machine.machine_id}:{machine.epoch}"
    since = machine.since or unit.at
    if machine.current is not None:
        lease = {**of, "lease_id": machine.lease_id, "task_id": machine.task_id}
        unit.enqueue("expire", key, lease, due_at=machine.current.hard_deadline_at)
    if (limit_s := STATE_MAX_S.get(machine.state)) is not None:
        due_at = since + timedelta(seconds=limit_s)
        unit.enqueue("hurry", f"{key}:{machine.state}", {**of, "state": machine.state}, due_at=due_at)
    if machine.cures_itself:
        unit.enqueue("cure", key, of, due_at=since + timedelta(seconds=self_cure_delay_s(machine)))
