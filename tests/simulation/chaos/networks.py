"""Faults of guests' networks: somebody opens them, they vanish, their helper is away, the store is behind its host."""

import asyncio

from contracts.ids import derived
from services.machines.domain.machine import Machine
from tests.simulation.chaos.core import Chaos, fault


@fault(0.7, is_common=False)
async def isolation_broken(chaos: Chaos) -> None:
    """The rules of a machine's network are changed, whoever has the machine."""
    world = chaos.sim.world

    def break_out(machine: Machine) -> None:
        if machine.machine_id in world.networks.open_networks():
            chaos.count("isolation_broken")
            world.break_out(machine.machine_id)

    chaos.as_it_moves(Machine, 0.02, break_out)
    while await chaos.after(25):
        machine = chaos.sim.truth.machine(chaos.rng.choice(chaos.sim.around.specs).machine_id)
        if machine is not None:
            break_out(machine)


@fault(0.3, is_common=False)
async def networks_lost(chaos: Chaos) -> None:
    """The network helper is started anew: every network is gone."""
    world = chaos.sim.world
    while await chaos.after(25):
        if world.networks.open_networks():
            chaos.count("networks_lost")
            world.lose_networks()


@fault(0.3, is_common=False)
async def network_helper_down(chaos: Chaos) -> None:
    """Nobody reaches the network helper for a while."""
    world = chaos.sim.world
    while chaos.sim.has_cards and await chaos.after(30):
        chaos.count("network_helper_down")
        world.is_network_down = True
        await asyncio.sleep(1 + chaos.rng.random() * 10)
        world.is_network_down = False


@fault(0.35, is_common=False)
async def store_behind(chaos: Chaos) -> None:
    """The host acted for an epoch, let a machine run, or gave a lease a network, and no record knows of it."""
    sim = chaos.sim

    def forget(machine: Machine) -> None:
        if machine.state == "retired":
            return
        epoch, host = machine.epoch + 1 + chaos.rng.randrange(3), sim.world.host(machine.machine_id)
        if host.life is not None and host.life.resumed_for is None and chaos.rng.random() < 0.4:
            chaos.count("grant_forgotten")
            host.life.resumed_for = "a grant that no record knows"
        elif sim.has_cards and chaos.rng.random() < 0.7:
            chaos.count("unknown_lease_broke_out")
            lease_id = derived("lea", machine.machine_id, epoch)
            sim.world.networks.tell(machine.machine_id, epoch, "a guest of nobody knows which lease", lease_id)
        else:
            chaos.count("store_behind")
            host.fence, host.highest = host.fence.raised(epoch, None), host.highest.raised(epoch, None)

    chaos.as_it_moves(Machine, 0.02, forget)
    while await chaos.after(20):
        machine = sim.truth.machine(chaos.rng.choice(sim.around.specs).machine_id)
        if machine is not None:
            forget(machine)
