"""What intake hears: which plugins and machines exist (each fact is one row), and that the scheduler knows a task."""

from collections.abc import Mapping

from contracts.envelope import Message
from contracts.machines import MachineRegistered, MachineRetired, MachineReverted
from contracts.plugins import PluginRegistered, PluginRemoved
from contracts.scheduler import (
    TaskCancelled,
    TaskCompleted,
    TaskFact,
    TaskFailed,
    TaskPlanned,
    TaskStarted,
    TaskTimedOut,
    TaskUnserviceable,
)
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Unit
from services.intake.app import CONFIRM_TASK

KNOW_PLUGIN = (
    "INSERT INTO known_plugins VALUES ($1, $2::jsonb) ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest"
)
KNOW_MACHINE = (
    "INSERT INTO known_machines VALUES ($1, $2, $3::jsonb) ON CONFLICT (machine_id) DO UPDATE "
    "SET epoch = excluded.epoch, machine = excluded.machine "
    "WHERE known_machines.epoch < excluded.epoch "
    "OR (known_machines.epoch = excluded.epoch AND known_machines.machine IS NOT NULL)"
)


async def on_plugin_registered(fact: PluginRegistered, unit: Unit, _store: Store) -> None:
    """The plugin may be asked for."""
    unit.execute(KNOW_PLUGIN, fact.manifest.name, fact.manifest.model_dump_json())


async def on_plugin_removed(fact: PluginRemoved, unit: Unit, _store: Store) -> None:
    """The plugin may no longer be asked for."""
    unit.execute(KNOW_PLUGIN, fact.name, None)


async def on_machine_registered(fact: MachineRegistered | MachineReverted, unit: Unit, _store: Store) -> None:
    """The machine may be asked for, unless a later epoch says otherwise."""
    unit.execute(KNOW_MACHINE, fact.machine_id, fact.epoch, fact.machine.model_dump_json())


async def on_machine_retired(fact: MachineRetired, unit: Unit, _store: Store) -> None:
    """The machine may no longer be asked for; at the same epoch this is the last word."""
    unit.execute(KNOW_MACHINE, fact.machine_id, fact.epoch, None)


async def on_task_known(fact: TaskFact, unit: Unit, _store: Store) -> None:
    """The task need not be said again."""
    unit.execute("DELETE FROM work WHERE kind = $1 AND key = $2", CONFIRM_TASK, fact.task_id)


async def on_task_begun(fact: TaskFact, unit: Unit, store: Store) -> None:
    """The task waits no more: it began, or it is over."""
    await on_task_known(fact, unit, store)
    unit.execute("DELETE FROM unstarted WHERE task_id = $1", fact.task_id)


HANDLERS: Mapping[type[Message], Handler] = {
    PluginRegistered: on_plugin_registered,
    PluginRemoved: on_plugin_removed,
    MachineRegistered: on_machine_registered,
    MachineReverted: on_machine_registered,
    MachineRetired: on_machine_retired,
    TaskPlanned: on_task_known,
    TaskStarted: on_task_begun,
    TaskUnserviceable: on_task_begun,
    TaskCompleted: on_task_begun,
    TaskFailed: on_task_begun,
    TaskTimedOut: on_task_begun,
    TaskCancelled: on_task_begun,
}
