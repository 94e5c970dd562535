"""Messages in, one use case each."""

from contracts.scheduler import LeaseMachine, ReleaseMachine
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Unit
from services.machines import app
from services.machines.domain.machine import Machine


async def do_lease_machine(command: LeaseMachine, unit: Unit, store: Store) -> None:
    """Lease it, or say why not."""
    app.lease(unit, await store.load(Machine, Machine.stream(command.machine_id)), command)


async def do_release_machine(command: ReleaseMachine, unit: Unit, store: Store) -> None:
    """Take it back."""
    app.release(unit, await store.load(Machine, Machine.stream(command.machine_id)), command)


HANDLERS: dict[type, Handler] = {
    LeaseMachine: do_lease_machine,
    ReleaseMachine: do_release_machine,
}
