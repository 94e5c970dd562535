"""What intake hears: which plugins and machines exist. Each fact is one row."""

from collections.abc import Mapping

from contracts.envelope import Message
from contracts.machines import MachineRegistered, MachineRetired, MachineReverted
from contracts.plugins import PluginRegistered, PluginRemoved
from services.chassis.bus import Handler
from services.chassis.store import Store
from services.chassis.unit import Unit

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


HANDLERS: Mapping[type[Message], Handler] = {
    PluginRegistered: on_plugin_registered,
    PluginRemoved: on_plugin_removed,
    MachineRegistered: on_machine_registered,
    MachineReverted: on_machine_registered,
    MachineRetired: on_machine_retired,
}
