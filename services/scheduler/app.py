"""Use cases: a task, a wish, an outcome."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from contracts.fitting import shortened
from contracts.intake import TaskSubmitted
from contracts.machines import MachineLeased, MachineSummary
from contracts.planning import Budgets
from contracts.plugins import PluginManifest
from contracts.submission import AnalysisRequest
from services.chassis.unit import Unit
from services.scheduler import waiting
from services.scheduler.domain.task import Task
from services.scheduler.domain.task.waits import next_look_at
from services.scheduler.policy.planning import PlanRefused, plan
from services.scheduler.policy.turns import could_serve, wanted

DISPATCH = "dispatch"
WAIT = "wait"
LOST = "lost"
ORPHAN = "orphan"
STRAND = "strand"
HEARSAY_S = 5.0
"""How long a lease may seem lost before that is looked into: the word of how it ended may be on its way."""
PATIENCE_S = 60.0
REFUSAL_MAX_BYTES = 8 * 1024
OVERDUE_AGAIN = timedelta(seconds=1)
"""How soon what is overdue already is looked at again. What is not has its own instant, to which nothing is added: what
is heard in between would put the look off, and an order would lose its repetition.
"""


def dispatch_wanted(unit: Unit) -> None:
    """Waiting tasks and ready machines are brought together once the unit is committed."""
    unit.news.add(DISPATCH)


def record(unit: Unit, task: Task) -> None:
    """The task's new events are in the unit, and its place in the queue follows its state."""
    happened = {type(event).__name__ for event in task.pending_events}
    if not happened:
        return
    unit.save(task)
    if happened & waiting.SEATING:
        waiting.seat(unit, task)
    unit.execute("SELECT put_off_look($1, $2)", task.task_id, _look_delay(unit, task))
    if task.wants_machine or "MachineReturned" in happened:
        dispatch_wanted(unit)


def look_again(unit: Unit, task: Task) -> None:
    """The task, which was looked at, is looked at again when something that it waits for is overdue, not before."""
    unit.execute("SELECT look_again($1, $2)", task.task_id, _look_delay(unit, task))


def _look_delay(unit: Unit, task: Task) -> timedelta | None:
    due_at = next_look_at(task, unit.at)
    if due_at is None:
        return None
    return due_at - unit.at if due_at > unit.at else OVERDUE_AGAIN


def lease_seems_lost(unit: Unit, task_id: str, *, machine_id: str, epoch: int) -> None:
    """The task holds a lease on the machine, which is at that later epoch: that is looked into."""
    details = {"task_id": task_id, "epoch": epoch}
    unit.enqueue(LOST, f"{task_id}:{machine_id}:{epoch}", details, due_at=unit.at + timedelta(seconds=HEARSAY_S))


def keep_orphan(unit: Unit, fact: MachineLeased) -> None:
    """A machine was leased for a task that nobody knows: it is given back unless the task is heard of soon."""
    details = {"task_id": fact.task_id, "fact": fact.model_dump(mode="json")}
    unit.enqueue(ORPHAN, fact.lease.lease_id, details, due_at=unit.at + timedelta(seconds=PATIENCE_S))


def pool_changed(unit: Unit) -> None:
    """Tasks that wait for what no machine offers any more are told so."""
    unit.enqueue(STRAND, f"{unit.uuid().hex}", {})


def start(
    unit: Unit,
    asked: TaskSubmitted,
    catalogue: Mapping[str, PluginManifest],
    pool: Sequence[MachineSummary],
    budgets: Budgets,
) -> None:
    """The task exists, with its plan frozen; or is unserviceable, and says why."""
    task = Task.submit(asked, unit.at)
    fitting = [machine for machine in pool if could_serve(machine, asked.request)]
    try:
        if not fitting:
            raise PlanRefused(misfit(asked.request, pool))  # noqa: TRY301 - the same refusal as the planner's
        has_access = all(machine.has_guest_access for machine in fitting)
        planned = plan(asked.request, catalogue, platform=fitting[0].platform, has_guest_access=has_access)
    except PlanRefused as refusal:
        task.refuse(shortened(str(refusal), REFUSAL_MAX_BYTES), unit.at)
    else:
        task.start(planned, wanted(asked.request), unit.at, budgets)
    unit.leave_at_hand(task)
    record(unit, task)


def misfit(request: AnalysisRequest, pool: Sequence[MachineSummary]) -> str:
    """Why no machine that is known could ever run it, and what there is."""
    offers = "; ".join(
        f"{machine.machine_id}: profile {machine.profile}, routes {', '.join(machine.routes)}"
        f"{'' if machine.accepts_untrusted else ', no untrusted samples'}"
        for machine in pool
    )
    machine = f"machine {request.machine}, " if request.machine else ""
    there_are = offers or "none, every machine was retired"
    untrusted = ", untrusted samples" if request.untrusted else ""
    terms = f"{machine}profile {request.profile}, route {request.route}{untrusted}"
    return shortened(f"no machine fits {terms}; there are: {there_are}", REFUSAL_MAX_BYTES)
