"""What plugins is ordered to do, and what it hears of tasks. The work that is ordered is done in `stages`."""

from collections.abc import Mapping

from contracts import intake, scheduler
from contracts.envelope import Message
from contracts.scheduler import CancelStage, RunStage
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Unit
from services.plugins import rows

RUN_STAGE = "run-stage"


async def do_run_stage(command: RunStage, unit: Unit, store: Store) -> None:
    """The stage is run, once, however often it is ordered; ordered again, it says again what it said."""
    key = rows.StageKey(command.task_id, command.attempt, command.stage.name)
    known = await rows.load_stage(store, key)
    if known is not None and known.is_ordered:
        for message_id, fact in await rows.load_said(store, key):
            unit.say(fact, message_id=message_id)
        return
    rows.order_stage(unit, key)
    unit.enqueue(RUN_STAGE, str(key), {"task_id": command.task_id, "command": command.model_dump(mode="json")})


async def do_cancel_stage(command: CancelStage, unit: Unit, _store: Store) -> None:
    """The stage stops, also when the order to run it is still on its way."""
    rows.cancel_stage(unit, rows.StageKey(command.task_id, command.attempt, command.stage), command.reason)


async def on_task_planned(fact: scheduler.TaskPlanned, unit: Unit, _store: Store) -> None:
    """The versions that were pinned stay until the task ended, whatever becomes of their folders."""
    rows.keep_pins(unit, fact.task_id, fact.plan)


async def on_task_over(fact: scheduler.TaskFact, unit: Unit, _store: Store) -> None:
    """The task needs its versions no more, nor what was said of it."""
    rows.end_pins(unit, fact.task_id)
    rows.forget_said(unit, fact.task_id)


async def on_children_chosen(fact: intake.ChildrenChosen, unit: Unit, _store: Store) -> None:
    """What was found inside the task's sample need not be said again."""
    rows.end_awaiting(unit, fact.task_id)


HANDLERS: Mapping[type[Message], Handler] = {
    RunStage: do_run_stage,
    CancelStage: do_cancel_stage,
    intake.ChildrenChosen: on_children_chosen,
    scheduler.TaskPlanned: on_task_planned,
    scheduler.TaskCompleted: on_task_over,
    scheduler.TaskFailed: on_task_over,
    scheduler.TaskTimedOut: on_task_over,
    scheduler.TaskCancelled: on_task_over,
    scheduler.TaskUnserviceable: on_task_over,
}
