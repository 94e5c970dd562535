"""Faults of the processes: they die, stand still, are away, and act when another has long taken over."""

import asyncio
from typing import TYPE_CHECKING

from tests.simulation.chaos.core import Chaos, fault
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.services import SimService

TAKEN_OVER_S = 18.0
"""So long after a driver stood still the next one drives, at the earliest: a process is started, and sees no beat."""


@fault(0.6)
async def crash(chaos: Chaos) -> None:
    """A process dies at some await."""

    def die(process: Process) -> None:
        service = chaos.service_of(process)
        if service is not None:
            chaos.count(f"crash {service.name}")
            chaos.sim.crash(service)

    while await chaos.after(12):
        chaos.at_an_await(die)


@fault(0.2)
async def crash_pair(chaos: Chaos) -> None:
    """Two services die together."""

    def die(process: Process) -> None:
        chaos.count("crash_pair")
        for service in (chaos.service_of(process), chaos.anyone()):
            if service is not None:
                chaos.sim.crash(service)

    while await chaos.after(25):
        chaos.at_an_await(die)


@fault(0.35)
async def pause(chaos: Chaos) -> None:
    """A process stands still between two steps, and wakes later; another may have been started meanwhile."""

    def stop(process: Process) -> None:
        service = chaos.service_of(process)
        if service is not None and not process.is_paused:
            chaos.count("pause")
            process.pause()
            chaos.sim.loop.world.spawn(chaos_pause(chaos, service))

    while await chaos.after(15):
        chaos.at_an_await(stop)


@fault(0.3)
async def stale_actor(chaos: Chaos) -> None:
    """Who is about to act on a machine stands still until the machine is long somebody else's, and acts then."""
    sim = chaos.sim

    def stall(process: Process, machine_id: str) -> None:
        service = chaos.service_of(process)
        if chaos.is_over or service is None or process.is_paused or chaos.rng.random() > 0.06:
            return
        chaos.count(f"stale_actor {service.name}")
        sim.loop.world.spawn(chaos_stall(chaos, service, machine_id))

    sim.world.on_act = stall


@fault(0.25)
async def driver_replaced(chaos: Chaos) -> None:
    """A driver stands still with a request on its way, another drives the guest on, and the request arrives then."""
    world = chaos.sim.world
    swift = world.on_request

    def stall(process: Process, machine_id: str) -> float:
        service = chaos.service_of(process)
        if service is None or chaos.is_over or process.is_paused or chaos.rng.random() > 0.1:
            return swift(process, machine_id)
        chaos.count("driver_replaced")
        chaos.sim.loop.world.spawn(chaos_stall(chaos, service, machine_id, loss_share=0.0))
        return TAKEN_OVER_S + chaos.rng.random() * 12

    world.on_request = stall


async def chaos_stall(chaos: Chaos, service: "SimService", machine_id: str, *, loss_share: float = 0.7) -> None:
    """The process stands still now, its machine may be lost if it was a driver, and another process goes on."""
    sim = chaos.sim
    if service.process.is_dead or service.process.is_paused:
        return
    service.process.pause()
    if service.name == "plugins" and chaos.rng.random() < loss_share:
        sim.world.gone(sim.world.host(machine_id))
    await chaos_pause(chaos, service, pause_s=20 + chaos.rng.random() * 30, replica_share=0.9)


@fault(0.2)
async def absence(chaos: Chaos) -> None:
    """A service is away for longer than a lease lasts."""
    if await chaos.after(20):
        service = chaos.anyone()
        chaos.count(f"absence {service.name}")
        sim = chaos.sim
        sim.absent.add(service.name)
        sim.crash(service)
        await asyncio.sleep(30 + chaos.rng.random() * 60)
        sim.absent.discard(service.name)
        if service.name not in sim.live:
            sim.start_service(service.name)


async def chaos_pause(chaos: Chaos, service: "SimService", *, pause_s: float = 0.0, replica_share: float = 0.5) -> None:
    """The rest of a pause: the others notice, and it ends."""
    sim = chaos.sim
    if service.holds_a_transaction:
        chaos.count("transaction_cut")
        service.pool.cut()
    pause_s = pause_s or chaos.rng.choice((1.0, 10.0, 60.0)) * (0.2 + chaos.rng.random())
    await asyncio.sleep(min(pause_s, 5.0))
    if service.process.is_paused and sim.live.get(service.name) is service and chaos.rng.random() < replica_share:
        chaos.count("replica")
        sim.start_service(service.name)
        chaos.zombies.append(service)
    if service.process.is_paused and service.consumer is not None and pause_s > 20:
        service.consumer.disconnect()
    await asyncio.sleep(max(0.0, pause_s - 5.0))
    if service.process.is_dead:
        return
    if service.process.is_paused:
        service.process.resume()
    if service.consumer is not None and not service.consumer.is_connected and service.is_up:
        service.consumer.reconnect()
    if service in chaos.zombies:
        chaos.count("zombie_woke")
        await asyncio.sleep(10)
        sim.crash(service)
