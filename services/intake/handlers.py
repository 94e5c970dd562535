"""What intake hears: which plugins and machines exist (each fact is one row), and that the scheduler knows a task."""

from collections.abc import Mapping

import structlog

from contracts.envelope import Message
from contracts.machines import MachineRegistered, MachineRetired, MachineReverted
from contracts.plugins import ChildrenFound, PluginRegistered, PluginRemoved
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
from services.intake.adapters.backlog import count_waiting
from services.intake.adapters.tables import find_family, find_submission
from services.intake.app import CONFIRM_TASK, choose_children
from services.intake.domain.choosing import ChildLimits

log = structlog.get_logger()

KNOW_PLUGIN = (
    "INSERT INTO known_plugins VALUES ($1, $2::jsonb) ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest"
)
KNOW_MACHINE = (
    "INSERT INTO known_machines VALUES ($1, $2, $3::jsonb) ON CONFLICT (machine_id) DO UPDATE "
    "SET epoch = excluded.epoch, machine = excluded.machine "
    "WHERE known_machines.epoch < excluded.epoch "
    "OR (known_machines.epoch = excluded.epoch AND known_machines.machine IS NOT NULL)"
)
HURRY = "UPDATE work SET due_at = $2 WHERE kind = $1 AND due_at > $2"


async def on_plugin_registered(fact: PluginRegistered, unit: Unit, _store: Store) -> None:
    """The plugin may be asked for. What the scheduler could not plan without it is said again now."""
    unit.execute(KNOW_PLUGIN, fact.manifest.name, fact.manifest.model_dump_json())
    unit.execute(HURRY, CONFIRM_TASK, unit.at)


async def on_plugin_removed(fact: PluginRemoved, unit: Unit, _store: Store) -> None:
    """The plugin may no longer be asked for."""
    unit.execute(KNOW_PLUGIN, fact.name, None)


async def on_machine_registered(fact: MachineRegistered, unit: Unit, store: Store) -> None:
    """The machine may be asked for. What the scheduler could not plan without it is said again now."""
    await on_machine_seen(fact, unit, store)
    unit.execute(HURRY, CONFIRM_TASK, unit.at)


async def on_machine_seen(fact: MachineRegistered | MachineReverted, unit: Unit, _store: Store) -> None:
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


class ChildDesk:
    """Decides what becomes of files that are found inside samples."""

    def __init__(self, limits: ChildLimits, *, queued_max: int) -> None:
        self._limits = limits
        self._queued_max = queued_max

    async def on_children_found(self, fact: ChildrenFound, unit: Unit, store: Store) -> None:
        """They become tasks of the same submission, within limits; what does not is told of with its reason."""
        submission = await find_submission(store, fact.submission_id)
        if submission is None:
            log.warning("children_of_an_unknown_submission_were_found", submission_id=fact.submission_id)
            return
        family = await find_family(store, fact.submission_id) or submission.family(unit.at)
        room = self._queued_max - await count_waiting(store, submission.owner, self._queued_max)
        choose_children(submission, family, fact, self._limits, room=room, unit=unit)


HANDLERS: Mapping[type[Message], Handler] = {
    PluginRegistered: on_plugin_registered,
    PluginRemoved: on_plugin_removed,
    MachineRegistered: on_machine_registered,
    MachineReverted: on_machine_seen,
    MachineRetired: on_machine_retired,
    TaskPlanned: on_task_known,
    TaskStarted: on_task_begun,
    TaskUnserviceable: on_task_begun,
    TaskCompleted: on_task_begun,
    TaskFailed: on_task_begun,
    TaskTimedOut: on_task_begun,
    TaskCancelled: on_task_begun,
}


def handlers(limits: ChildLimits, *, queued_max: int) -> Mapping[type[Message], Handler]:
    """What is heard, and who hears it."""
    return {**HANDLERS, ChildrenFound: ChildDesk(limits, queued_max=queued_max).on_children_found}
