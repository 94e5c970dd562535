"""Faults of what else there is: the object store, plugins, clocks, and people who change their minds."""

from tests.simulation.chaos.core import Chaos, fault


@fault(0.2)
async def blob_failures(chaos: Chaos) -> None:
    """The object store fails now and then."""
    chaos.sim.blobs.failure_rate = 0.05


@fault(0.2)
async def plugin_crashes(chaos: Chaos) -> None:
    """Plugins crash."""
    chaos.sim.sandbox.crash_rate = 0.2


@fault(0.25)
async def clock_jumps(chaos: Chaos) -> None:
    """A wall clock is set, forward or back."""
    while await chaos.after(20):
        jump_s = (chaos.rng.random() - 0.5) * 240
        if chaos.rng.random() < 0.3:
            chaos.count("clock_jump database")
            chaos.sim.stores.clock_offset_s += jump_s
            chaos.sim.stores.set_back_s += max(0.0, -jump_s)
        else:
            chaos.count("clock_jump service")
            chaos.anyone().process.wall_offset_s += jump_s


@fault(0.15)
async def cancellations(chaos: Chaos) -> None:
    """Somebody cancels a task."""
    while await chaos.after(20):
        accepted = [client for client in chaos.sim.clients if client.is_accepted and not client.is_cancelled]
        if accepted:
            await chaos.rng.choice(accepted).cancel(chaos.sim)


@fault(0.08)
async def image_rebuilt(chaos: Chaos) -> None:
    """The operator builds the image anew."""
    if await chaos.after(40):
        chaos.count("image_rebuilt")
        chaos.sim.world.image = "image-2"
