"""Every incarnation that was verified, by the name that its agent drew once it was re-seeded: none comes twice."""

from services.chassis.store import Store
from services.chassis.unit import Unit
from services.machines.domain.machine import Machine
from services.machines.errors import GuestRefused

KEPT_DAYS = 90


async def refuse_known(store: Store, instance_id: str) -> None:
    """No incarnation was ever known by that name. Raises GuestRefused, StoreUnavailable."""
    if not instance_id:
        raise GuestRefused("the agent has no name of its own")
    known = await store.fetchrow("SELECT machine_id, epoch FROM incarnations WHERE instance_id = $1", instance_id)
    if known is not None:
        raise GuestRefused(
            f"the agent drew a name that {known['machine_id']} drew at epoch {known['epoch']}: "
            "its random generator was not re-seeded, and its keys are copies"
        )


def remember(unit: Unit, instance_id: str, machine: Machine) -> None:
    """The name is known from the commit of the unit on."""
    unit.execute(
        "INSERT INTO incarnations (instance_id, machine_id, epoch, seen_at) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (instance_id) DO NOTHING",
        instance_id,
        machine.machine_id,
        machine.epoch,
        unit.at,
    )
