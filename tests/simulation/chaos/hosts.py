"""Faults of the hosts: hypervisors fail, somebody else touches machines, guests hang, lie and vanish."""

import asyncio

from tests.simulation.chaos.core import Chaos, fault


@fault(0.4)
async def hypervisor_failures(chaos: Chaos) -> None:
    """Calls fail, are slow, or are answered when nobody listens any more."""
    chaos.sim.world.failure_rate = chaos.rng.choice((0.0, 0.05))
    chaos.sim.world.slow_rate = chaos.rng.choice((0.02, 0.08))


@fault(0.15)
async def hypervisor_down(chaos: Chaos) -> None:
    """Libvirt is away for a while."""
    while await chaos.after(30):
        chaos.count("hypervisor_down")
        chaos.sim.world.is_down = True
        await asyncio.sleep(1 + chaos.rng.random() * 15)
        chaos.sim.world.is_down = False


@fault(0.08)
async def unkillable(chaos: Chaos) -> None:
    """Some processes of machines cannot be killed."""
    chaos.sim.world.unkillable_rate = 0.2


@fault(0.15)
async def mute_guests(chaos: Chaos) -> None:
    """Some guests never answer."""
    chaos.sim.world.mute_rate = 0.15


@fault(0.2, is_common=False)
async def impostors(chaos: Chaos) -> None:
    """Some guests that answer were made by somebody else."""
    chaos.sim.world.impostor_rate = 0.1


@fault(0.2, is_common=False)
async def token_thieves(chaos: Chaos) -> None:
    """Somebody else has some agents enrolled first."""
    chaos.sim.world.thief_rate = 0.1


@fault(0.4, is_common=False)
async def slow_collections(chaos: Chaos) -> None:
    """What guests hand out takes long to come."""
    chaos.sim.world.collect_max_s = 12.0


@fault(0.3)
async def drift(chaos: Chaos) -> None:
    """Somebody else destroys, suspends, resumes or replaces a machine."""
    kinds = ("destroyed", "suspended", "resumed", *(("replaced",) if chaos.sim.is_eventful else ()))
    while await chaos.after(20):
        host = chaos.rng.choice([chaos.sim.world.hosts[name] for name in sorted(chaos.sim.world.hosts)] or [None])
        if host is None or host.life is None:
            continue
        what = chaos.rng.choice(kinds)
        chaos.count(f"drift {what}")
        if what == "destroyed":
            chaos.sim.world.gone(host)
        elif what == "replaced":
            chaos.sim.world.replace(host)
        else:
            host.life.is_running = what == "resumed"
            host.is_disturbed = True
            if host.life.guest is not None:
                host.life.guest.changed()


@fault(0.12)
async def power_cut(chaos: Chaos) -> None:
    """The host loses power: every machine and the machines service are gone at once."""
    if await chaos.after(40):
        chaos.count("power_cut")
        for host in chaos.sim.world.hosts.values():
            if host.life is not None:
                host.life.is_unkillable = False
                chaos.sim.world.gone(host)
        for service in chaos.sim.everybody():
            if service.name == "machines":
                chaos.sim.crash(service)


@fault(0.3)
async def guest_faults(chaos: Chaos) -> None:
    """An agent hangs, lies, or is lost with its machine."""
    while await chaos.after(12):
        lives = [host.life for host in chaos.sim.world.hosts.values() if host.life and host.life.guest]
        if not lives:
            continue
        life = chaos.rng.choice(lives)
        what = chaos.rng.choice(("hangs", "lies", "crashes"))
        chaos.count(f"guest {what}")
        if what == "hangs":
            life.guest.is_hanging = True
        elif what == "lies":
            life.guest.is_lying = True
        else:
            chaos.sim.world.gone(chaos.sim.world.host(life.machine_id))
