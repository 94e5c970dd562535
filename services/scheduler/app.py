"""Use cases: a task, a wish, an outcome."""

from collections.abc import Mapping, Sequence

from contracts.intake import TaskSubmitted
from contracts.machines import MachineSummary
from contracts.plugins import PluginManifest
from services.chassis.unit import Unit
from services.scheduler import waiting
from services.scheduler.domain.task import Task
from services.scheduler.policy.planning import PlanRefused, plan
from services.scheduler.policy.turns import could_serve, wanted

DISPATCH = "dispatch"


def dispatch_wanted(unit: Unit) -> None:
    """Waiting tasks and ready machines are brought together soon."""
    unit.enqueue(DISPATCH, f"{unit.uuid().hex}", {})


def record(unit: Unit, task: Task) -> None:
    """The task's new events are in the unit, and its place in the queue follows its state."""
    happened = {type(event).__name__ for event in task.pending_events}
    if not happened:
        return
    unit.save(task)
    if happened & waiting.SEATING:
        waiting.seat(unit, task)
    if task.state == "queued" or "MachineReturned" in happened:
        dispatch_wanted(unit)


def start(
    unit: Unit, asked: TaskSubmitted, catalogue: Mapping[str, PluginManifest], pool: Sequence[MachineSummary]
) -> None:
    """The task exists, with its plan frozen; or is unserviceable, and says why."""
    task = Task.submit(asked, unit.at)
    fitting = [machine for machine in pool if could_serve(machine, asked.request)]
    try:
        if pool and not fitting:
            raise PlanRefused(_misfit(asked, pool))  # noqa: TRY301 - the same refusal as the planner's
        platform = fitting[0].platform if fitting else "linux"
        has_access = all(machine.has_guest_access for machine in fitting)
        planned = plan(asked.request, catalogue, platform=platform, has_guest_access=has_access)
    except PlanRefused as refusal:
        task.refuse(str(refusal), unit.at)
    else:
        task.start(planned, wanted(asked.request), unit.at)
    record(unit, task)


def _misfit(asked: TaskSubmitted, pool: Sequence[MachineSummary]) -> str:
    request = asked.request
    offers = "; ".join(
        f"{machine.machine_id}: profile {machine.profile}, routes {', '.join(machine.routes)}" for machine in pool
    )
    machine = f"machine {request.machine}, " if request.machine else ""
    return f"no machine fits {machine}profile {request.profile}, route {request.route}; there are: {offers}"
