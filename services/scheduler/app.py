"""Use cases: a task, a wish, an outcome."""

from collections.abc import Mapping, Sequence

from contracts.intake import TaskSubmitted
from contracts.machines import MachineSummary
from contracts.plugins import PluginManifest
from services.chassis.unit import Unit
from services.scheduler import tables
from services.scheduler.domain.task import Task
from services.scheduler.policy.planning import PlanRefused, plan

DISPATCH = "dispatch"


def dispatch_wanted(unit: Unit) -> None:
    """Waiting tasks and ready machines are brought together soon."""
    unit.enqueue(DISPATCH, f"{unit.uuid().hex}", {})


def record(unit: Unit, task: Task) -> None:
    """The task's new events are in the unit, and its place in the queue follows its state."""
    if task.pending_events:
        unit.save(task)
        tables.sync_queue(unit, task)
        if task.state == "queued":
            dispatch_wanted(unit)


def start(
    unit: Unit, asked: TaskSubmitted, catalogue: Mapping[str, PluginManifest], pool: Sequence[MachineSummary]
) -> None:
    """The task exists, with its plan frozen; or is unserviceable, and says why."""
    task = Task.submit(asked, unit.at)
    fitting = [machine for machine in pool if _fits(machine, asked)]
    try:
        if pool and not fitting:
            raise PlanRefused(_misfit(asked, pool))  # noqa: TRY301 - the same refusal as the planner's
        platform = fitting[0].platform if fitting else "linux"
        has_access = all(machine.has_guest_access for machine in fitting)
        planned = plan(asked.request, catalogue, platform=platform, has_guest_access=has_access)
    except PlanRefused as refusal:
        task.refuse(str(refusal), unit.at)
    else:
        wanted = asked.request.machine or f"a machine of profile {asked.request.profile}"
        task.start(planned, wanted, unit.at)
    record(unit, task)


def _fits(machine: MachineSummary, asked: TaskSubmitted) -> bool:
    request = asked.request
    return (
        machine.profile == request.profile
        and request.machine in (None, machine.machine_id)
        and request.route in machine.routes
    )


def _misfit(asked: TaskSubmitted, pool: Sequence[MachineSummary]) -> str:
    request = asked.request
    offers = "; ".join(
        f"{machine.machine_id}: profile {machine.profile}, routes {', '.join(machine.routes)}" for machine in pool
    )
    machine = f"machine {request.machine}, " if request.machine else ""
    return f"no machine fits {machine}profile {request.profile}, route {request.route}; there are: {offers}"
