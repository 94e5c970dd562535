"""The last look at a guest's network, before whoever cleans the machine takes the network away."""

import asyncio

import pytest

from services.machines.adapters.memory_network import MemoryNetwork
from services.machines.domain.fence import Claim
from services.machines.domain.machine import Machine
from services.machines.effects.networks import Networks
from services.machines.effects.outcomes import Charge
from services.machines.errors import NetworkUnavailable
from services.machines.ports import Isolation
from tests.unit.machines.fleet import NOW, SPEC, lease, ready


class Away(MemoryNetwork):
    """A helper that nobody reaches while `is_away`."""

    is_away = False

    async def verify(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> Isolation:
        """As it is, if it can be seen."""
        if self.is_away:
            raise NetworkUnavailable("the network helper is gone")
        return await super().verify(machine_id, epoch=epoch, claim=claim)


def returned() -> Machine:
    """A machine with an analysis card whose lease is over, to be cleaned."""
    machine = lease(ready(SPEC.model_copy(update={"routes": ("none", "simulated")})))
    machine.release(machine.lease_id or "", NOW)
    return machine


@pytest.mark.promise("P22")
def test_a_network_that_nobody_can_look_at_now_is_not_taken_for_whole() -> None:
    """A helper that is away for that moment and back for the next would take the breach away with the network."""

    async def look() -> None:
        machine, network = returned(), Away()
        on = Charge(machine, Claim(1, 1))
        await network.plug(machine.machine_id, epoch=machine.epoch)
        network.break_isolation(machine.machine_id, "rules: too much")
        network.is_away = True
        with pytest.raises(NetworkUnavailable):
            await Networks(network).breach(on)
        network.is_away = False
        assert await Networks(network).breach(on) == "rules: too much"

    asyncio.run(look())
