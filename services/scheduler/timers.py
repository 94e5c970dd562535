"""What is done when nothing was heard: orders are given again, budgets end, machines nobody wants are given back."""

import structlog

from contracts.ids import uuid_of
from contracts.machines import MachineLeased
from contracts.scheduler import ReleaseMachine
from services.chassis.run import Runtime
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.scheduler import tables, waiting
from services.scheduler.announcements import again
from services.scheduler.app import LOST, ORPHAN, PATIENCE_S, STRAND, WAIT, look_again, misfit, record
from services.scheduler.domain.task import Task
from services.scheduler.domain.task.waits import waits

TASKS_AT_ONCE_MAX = 500
TASKS_RESUMED_AT_ONCE = 1_000

log = structlog.get_logger()


async def look(item: WorkItem, context: WorkContext) -> None:
    """Whatever the task waits for too long has ended, and every order that was not answered is given again."""

    async def decide(unit: Unit) -> None:
        task = await context.store.load(Task, uuid_of(item.key), unit)
        if task is None:
            return
        for wait in waits(task):
            if wait.is_overdue(unit.at):
                log.warning("budget_was_spent", task=task.task_id, waiting_for=wait.what)
                task.overrun(wait.what, unit.at)
            elif wait.is_silent(unit.at):
                log.info("order_was_repeated", task=task.task_id, waiting_for=wait.what)
                for message in again(wait, task, unit.at):
                    unit.say(message)
        if task.pending_events:
            record(unit, task)
        else:
            look_again(unit, task)

    await context.commit(decide)


async def recover(item: WorkItem, context: WorkContext) -> None:
    """A task that runs on a lease which is not current is tried again.

    First the lease's end is asked for: its machine says how it ended, and that decides. Only if it does not know is
    the lease lost for no better reason.
    """
    is_first = item.attempt == 1

    async def decide(unit: Unit) -> None:
        task = await context.store.load(Task, uuid_of(item.payload["task_id"]), unit)
        if task is None or task.guest is None or task.guest.lease.epoch >= item.payload["epoch"]:
            return
        lease = task.guest.lease
        if is_first:
            unit.say(_released(task.task_id, task.machine_host, lease.machine_id, lease.lease_id, lease.epoch))
        else:
            reason = f"machine {lease.machine_id} has another owner: the lease was lost without a word"
            task.lose_lease(item.payload["epoch"], reason, unit.at)
            record(unit, task)

    await context.commit(decide, finish=not is_first)
    if is_first:
        await context.reschedule(PATIENCE_S)


async def give_back(item: WorkItem, context: WorkContext) -> None:
    """A machine that was leased for a task which nobody knows is given back; one that is known by now gets it."""
    fact = MachineLeased.model_validate(item.payload["fact"])

    async def decide(unit: Unit) -> None:
        task = await context.store.load(Task, uuid_of(fact.task_id), unit)
        if task is not None and not task.is_over:
            task.grant(fact, unit.at)
            record(unit, task)
            return
        host = fact.host or await tables.host_of(context.store, fact.machine_id)
        if host is None:
            log.error("machine_of_no_known_host_was_leased", machine=fact.machine_id, task=fact.task_id)
        else:
            unit.say(_released(fact.task_id, host, fact.machine_id, fact.lease.lease_id, fact.epoch))

    await context.commit(decide, finish=True)


async def strand(_item: WorkItem, context: WorkContext) -> None:
    """No task waits that no known machine could ever run: each says so, and ends."""
    for _ in range(TASKS_AT_ONCE_MAX):
        found = await waiting.stranded(context.store)
        if found is None:
            return
        await _strand(context, found)
    await context.reschedule(0)


async def _strand(context: WorkContext, task_id: str) -> None:
    async def decide(unit: Unit) -> None:
        task = await context.store.load(Task, uuid_of(task_id), unit)
        if task is None:
            unit.execute("SELECT stand_aside($1, '')", task_id)
            return
        task.strand(misfit(task.request, await tables.pool(context.store)), unit.at)
        if task.pending_events:
            record(unit, task)
        else:
            waiting.seat(unit, task)

    await context.commit(decide)


async def resume(runtime: Runtime) -> None:
    """Tasks that nobody looks after, such as those of a release that did not, are looked after from now on."""
    last = ""
    while found := await tables.unwatched(runtime.store, behind=last, limit=TASKS_RESUMED_AT_ONCE):
        for last in found:
            task = await runtime.store.load(Task, uuid_of(last))
            if task is None or task.is_over:
                continue
            unit = runtime.unit()
            waiting.seat(unit, task)
            look_again(unit, task)
            await runtime.store.commit(unit)


def _released(task_id: str, host: str, machine_id: str, lease_id: str, epoch: int) -> ReleaseMachine:
    return ReleaseMachine(task_id=task_id, machine_id=machine_id, host=host, lease_id=lease_id, epoch=epoch)


RUNNERS = (
    Runner(WAIT, look, attempts_max=1000),
    Runner(LOST, recover, attempts_max=1000),
    Runner(ORPHAN, give_back, attempts_max=1000),
    Runner(STRAND, strand, concurrency=1, attempts_max=1000),
)
