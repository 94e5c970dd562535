"""Messages in, one use case each."""

from dataclasses import replace

from contracts.plugins import LeaseBeat, ObservationEnded
from contracts.scheduler import LeaseMachine, ReleaseMachine
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Unit
from services.machines import app
from services.machines.domain.machine import Machine


async def do_lease_machine(command: LeaseMachine, unit: Unit, store: Store) -> None:
    """Lease it, or say why not."""
    row = await store.fetchrow("SELECT reason FROM refusals WHERE operation_id = $1", command.operation_id)
    machine = await store.load(Machine, Machine.stream(command.machine_id), unit)
    app.lease(unit, machine, command, refused=row["reason"] if row else None)


async def do_release_machine(command: ReleaseMachine, unit: Unit, store: Store) -> None:
    """Take it back."""
    app.release(unit, await store.load(Machine, Machine.stream(command.machine_id), unit), command)


async def on_observation_ended(fact: ObservationEnded, unit: Unit, store: Store) -> None:
    """Evidence is being collected from the leased machine, and not for ever."""
    if fact.lease is None:
        return
    machine = await store.load(Machine, Machine.stream(fact.lease.machine_id), unit)
    if machine is not None:
        app.drain(unit, machine, fact.lease, fact.ended_by)


async def on_lease_beat(fact: LeaseBeat, unit: Unit, _store: Store) -> None:
    """The lease's driver lives; its newest beat is kept for whoever watches the lease."""
    # A beat that comes twice changes nothing, so none is worth a row that remembers it for two weeks.
    unit.cause = replace(unit.cause, message_id=None)
    unit.execute(
        "INSERT INTO lease_beat (lease_id, machine_id, term, beat, heard_at) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (lease_id) DO UPDATE SET term = excluded.term, beat = excluded.beat, heard_at = excluded.heard_at "
        "WHERE (lease_beat.term, lease_beat.beat) < (excluded.term, excluded.beat)",
        fact.lease.lease_id,
        fact.lease.machine_id,
        fact.lease.term,
        fact.beat,
        unit.at,
    )


HANDLERS: dict[type, Handler] = {
    LeaseMachine: do_lease_machine,
    ReleaseMachine: do_release_machine,
    ObservationEnded: on_observation_ended,
    LeaseBeat: on_lease_beat,
}
