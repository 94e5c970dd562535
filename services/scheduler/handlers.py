"""Messages in, one use case each."""

from typing import Any

from contracts import intake, machines, plugins, results
from contracts.envelope import Message
from contracts.ids import uuid_of
from contracts.scheduler import ReleaseMachine
from services.chassis.errors import TransientError
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Unit
from services.scheduler import tables, waiting
from services.scheduler.app import dispatch_wanted, keep_orphan, lease_seems_lost, pool_changed, record, start
from services.scheduler.domain.task import NotPossible, Task


async def load(store: Store, task_id: str, unit: Unit) -> Task:
    """The task that the unit is about. Raises TransientError when its submission has not been heard of yet."""
    task = await store.load(Task, uuid_of(task_id), unit)
    if task is None:
        raise TransientError(f"no task {task_id} is known yet")
    return task


async def on_task_submitted(fact: intake.TaskSubmitted, unit: Unit, store: Store) -> None:
    """A task begins; hearing it twice changes nothing."""
    if await store.load(Task, uuid_of(fact.task_id)) is not None:
        return
    catalogue, pool = await tables.catalogue(store), await tables.pool(store)
    if not catalogue or not (pool or await tables.has_pool(store)):
        raise TransientError("no plugin or no machine has been heard of yet")
    start(unit, fact, catalogue, pool, await waiting.budgets(store))


async def on_task_cancellation_requested(fact: intake.TaskCancellationRequested, unit: Unit, store: Store) -> None:
    """The task is to end."""
    task = await load(store, fact.task_id, unit)
    try:
        task.cancel(fact.by, fact.reason, unit.at)
    except NotPossible:
        return
    record(unit, task)


async def on_plugin_registered(fact: plugins.PluginRegistered, unit: Unit, _store: Store) -> None:
    """The plugin may be planned."""
    tables.keep_plugin(unit, fact.manifest)


async def on_plugin_removed(fact: plugins.PluginRemoved, unit: Unit, _store: Store) -> None:
    """The plugin may no longer be planned."""
    unit.execute("DELETE FROM catalogue WHERE name = $1", fact.name)


async def on_machine_registered(fact: machines.MachineRegistered, unit: Unit, store: Store) -> None:
    """The machine is known."""
    tables.keep_machine(unit, fact.machine, epoch=fact.epoch, condition=fact.state)
    await _supersede(fact, unit, store)
    if await tables.machine(store, fact.machine_id) != fact.machine:
        pool_changed(unit)
    dispatch_wanted(unit)


async def on_machine_reverted(fact: machines.MachineReverted, unit: Unit, store: Store) -> None:
    """The machine is to be had, and the task that used it is done with it."""
    tables.keep_machine(unit, fact.machine, epoch=fact.epoch, condition="ready")
    await _supersede(fact, unit, store)
    await _machine_left(fact, "clean", unit, store)
    dispatch_wanted(unit)


async def on_machine_quarantined(fact: machines.MachineQuarantined, unit: Unit, store: Store) -> None:
    """The machine is out of the pool, and the task that used it is done with it."""
    tables.mark_not_ready(unit, fact.machine_id, epoch=fact.epoch, condition="quarantined")
    await _supersede(fact, unit, store)
    await _machine_left(fact, "quarantined", unit, store)


async def on_machine_unavailable(
    fact: machines.MachineReverting | machines.MachineDrifted | machines.MachineWithdrawn | machines.MachineRestored,
    unit: Unit,
    store: Store,
) -> None:
    """The machine is not to be had."""
    is_withdrawn = isinstance(fact, machines.MachineWithdrawn)
    condition = "in maintenance" if is_withdrawn else "being cleaned"
    tables.mark_not_ready(unit, fact.machine_id, epoch=fact.epoch, condition=condition)
    await _supersede(fact, unit, store)


async def on_machine_retired(fact: machines.MachineRetired, unit: Unit, store: Store) -> None:
    """The machine is gone; tasks that only it could have run are told."""
    tables.mark_not_ready(unit, fact.machine_id, epoch=fact.epoch, condition="retired", is_retired=True)
    await _supersede(fact, unit, store)
    pool_changed(unit)


async def on_machine_leased(fact: machines.MachineLeased, unit: Unit, store: Store) -> None:
    """The task has its machine; one that has no use for it gives it back."""
    task = await store.load(Task, uuid_of(fact.task_id), unit)
    if task is None:
        keep_orphan(unit, fact)
        return
    if task.is_over:
        unit.say(
            ReleaseMachine(
                task_id=task.task_id,
                machine_id=fact.machine_id,
                host=fact.host or task.machine_host,
                lease_id=fact.lease.lease_id,
                epoch=fact.epoch,
            )
        )
        return
    task.grant(fact, unit.at)
    record(unit, task)


async def on_lease_refused(fact: machines.LeaseRefused, unit: Unit, store: Store) -> None:
    """The task waits for another machine."""
    tables.mark_not_ready(unit, fact.machine_id, epoch=fact.epoch, condition="not to be had")
    task = await load(store, fact.task_id, unit)
    task.refuse_match(fact.operation_id, fact.reason, unit.at)
    record(unit, task)


async def on_lease_expired(fact: machines.LeaseExpired, unit: Unit, store: Store) -> None:
    """The task lost its machine."""
    task = await load(store, fact.task_id, unit)
    task.lose_machine(fact, unit.at)
    record(unit, task)


async def on_stage_started(fact: plugins.PluginStageStarted, unit: Unit, store: Store) -> None:
    """The stage's turn has come."""
    task = await load(store, fact.task_id, unit)
    task.begin_stage(fact.stage, fact.attempt, unit.at)
    record(unit, task)


async def on_sample_started(fact: plugins.SampleStarted, unit: Unit, store: Store) -> None:
    """The sample runs: what was spent until now was the boot."""
    await on_progress(fact, unit, store)
    task = await load(store, fact.task_id, unit)
    task.begin_observation(fact.attempt, unit.at)
    record(unit, task)


async def on_observation_ended(fact: plugins.ObservationEnded, unit: Unit, store: Store) -> None:
    """Watching is over."""
    task = await load(store, fact.task_id, unit)
    task.end_observation(fact.attempt, fact.ended_by, unit.at)
    record(unit, task)


async def on_stage_completed(fact: plugins.PluginStageCompleted, unit: Unit, store: Store) -> None:
    """The stage ran."""
    task = await load(store, fact.task_id, unit)
    task.end_stage(
        fact.stage,
        fact.attempt,
        at=unit.at,
        result_ids=fact.result_ids,
        errors=fact.errors,
        ended_by=fact.ended_by,
    )
    record(unit, task)


async def on_stage_failed(fact: plugins.PluginStageFailed, unit: Unit, store: Store) -> None:
    """The stage could not be done."""
    task = await load(store, fact.task_id, unit)
    task.end_stage(
        fact.stage,
        fact.attempt,
        at=unit.at,
        reason=fact.reason,
        is_failed=True,
        is_retryable=fact.is_retryable,
        result_ids=fact.result_ids,
        errors=fact.errors,
        ended_by=fact.ended_by,
    )
    record(unit, task)


async def on_stage_skipped(fact: plugins.PluginStageSkipped, unit: Unit, store: Store) -> None:
    """The stage has nothing to do."""
    task = await load(store, fact.task_id, unit)
    task.skip_stage(fact.stage, fact.reason, unit.at)
    record(unit, task)


async def on_report_ready(fact: results.ReportReady, unit: Unit, store: Store) -> None:
    """The report can be read."""
    task = await load(store, fact.task_id, unit)
    missing = len(fact.missing_results) + fact.missing_more
    task.seal(fact.verdict, fact.score, unit.at, missing_results=missing)
    record(unit, task)


async def on_verdict_changed(fact: results.VerdictChanged, unit: Unit, store: Store) -> None:
    """What was found inside the sample was judged after the report."""
    task = await load(store, fact.task_id, unit)
    task.change_verdict(fact.verdict, fact.score, fact.revision, unit.at)
    record(unit, task)


async def on_progress(fact: Any, unit: Unit, _store: Store) -> None:
    """Something worth showing happened inside a stage."""
    details = fact.model_dump(mode="json", exclude={"task_id"})
    tables.keep_fact(unit, fact.task_id, fact.type_name(), details)


async def _supersede(fact: machines.MachineFact, unit: Unit, store: Store) -> None:
    """Whoever still holds the machine from an earlier epoch has lost it, heard or unheard."""
    for task_id in await waiting.holders(store, fact.machine_id, fact.epoch):
        lease_seems_lost(unit, task_id, machine_id=fact.machine_id, epoch=fact.epoch)


async def _machine_left(
    fact: machines.MachineReverted | machines.MachineQuarantined, condition: str, unit: Unit, store: Store
) -> None:
    if fact.task_id is None:
        return
    task = await store.load(Task, uuid_of(fact.task_id), unit)
    if task is not None:
        task.machine_left(fact.machine_id, condition, unit.at, epoch=fact.epoch)
        record(unit, task)


HANDLERS: dict[type[Message], Handler] = {
    intake.TaskSubmitted: on_task_submitted,
    intake.TaskCancellationRequested: on_task_cancellation_requested,
    plugins.PluginRegistered: on_plugin_registered,
    plugins.PluginRemoved: on_plugin_removed,
    machines.MachineRegistered: on_machine_registered,
    machines.MachineReverted: on_machine_reverted,
    machines.MachineQuarantined: on_machine_quarantined,
    machines.MachineReverting: on_machine_unavailable,
    machines.MachineDrifted: on_machine_unavailable,
    machines.MachineWithdrawn: on_machine_unavailable,
    machines.MachineRestored: on_machine_unavailable,
    machines.MachineRetired: on_machine_retired,
    machines.MachineLeased: on_machine_leased,
    machines.LeaseRefused: on_lease_refused,
    machines.LeaseExpired: on_lease_expired,
    plugins.PluginStageStarted: on_stage_started,
    plugins.ObservationEnded: on_observation_ended,
    plugins.PluginStageCompleted: on_stage_completed,
    plugins.PluginStageFailed: on_stage_failed,
    plugins.PluginStageSkipped: on_stage_skipped,
    plugins.PluginStarted: on_progress,
    plugins.PluginFinished: on_progress,
    plugins.GuestConnected: on_progress,
    plugins.GuestLost: on_progress,
    plugins.SampleStarted: on_sample_started,
    plugins.SampleExited: on_progress,
    results.ReportReady: on_report_ready,
    results.VerdictChanged: on_verdict_changed,
}
