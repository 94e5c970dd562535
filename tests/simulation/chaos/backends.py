"""Faults of broker and database: they are away, lose, repeat and delay what they are given, and come back older."""

import asyncio

from tests.simulation.chaos.core import Chaos, fault


@fault(0.4)
async def ambiguous_commit(chaos: Chaos) -> None:
    """A commit stands and its reply is lost."""
    chaos.sim.stores.ambiguous_rate = 0.03


@fault(0.5)
async def duplicates(chaos: Chaos) -> None:
    """Messages come twice."""
    chaos.sim.broker.duplicate_rate = 0.15


@fault(0.5)
async def delays(chaos: Chaos) -> None:
    """Messages come late."""
    chaos.sim.broker.delay_rate = 0.08


@fault(0.3)
async def lost_confirms(chaos: Chaos) -> None:
    """A message stands in its queues, and its sender does not hear so."""
    chaos.sim.broker.lost_confirm_rate = 0.05


@fault(0.25)
async def broker_down(chaos: Chaos) -> None:
    """Nobody reaches the broker for a while."""
    broker = chaos.sim.broker
    while await chaos.after(30):
        chaos.count("broker_down")
        broker.is_down = True
        await asyncio.sleep(1 + chaos.rng.random() * 15)
        if not chaos.is_over:
            broker.is_down = False
            for service in chaos.sim.everybody():
                if service.consumer is not None:
                    service.consumer.disconnect()
                    service.consumer.reconnect()


@fault(0.25)
async def broker_cut(chaos: Chaos) -> None:
    """One process does not reach the broker for a while."""
    broker = chaos.sim.broker
    while await chaos.after(20):
        service = chaos.anyone()
        chaos.count("broker_cut")
        broker.cut.add(service.process.number)
        if service.consumer is not None:
            service.consumer.disconnect()
        await asyncio.sleep(1 + chaos.rng.random() * 20)
        if not chaos.is_over:
            broker.cut.discard(service.process.number)
            if service.consumer is not None:
                service.consumer.reconnect()


@fault(0.15)
async def broker_wiped(chaos: Chaos) -> None:
    """The broker loses everything that it held, once."""
    if await chaos.after(30):
        chaos.count("broker_wiped")
        chaos.sim.broker.wipe()


@fault(0.25)
async def store_down(chaos: Chaos) -> None:
    """Nobody reaches the database for a while."""
    while await chaos.after(30):
        chaos.count("store_down")
        chaos.sim.stores.is_down = True
        chaos.sim.cut_connections()
        await asyncio.sleep(0.5 + chaos.rng.random() * 10)
        chaos.sim.stores.is_down = False


@fault(0.15)
async def store_restored(chaos: Chaos) -> None:
    """An older backup is put back, as operators are told to: what was accepted since is lost, and the broker's data."""
    if await chaos.after(15):
        backup = chaos.sim.stores.backup()
        await asyncio.sleep(3 + chaos.rng.random() * 15)
        if backup is not None and not chaos.is_over:
            chaos.count("store_restored")
            chaos.sim.restore(backup)


@fault(0.25)
async def store_cut(chaos: Chaos) -> None:
    """One process does not reach the database for a while."""
    while await chaos.after(20):
        service = chaos.anyone()
        chaos.count("store_cut")
        chaos.sim.stores.cut.add(service.process.number)
        service.pool.cut()
        await asyncio.sleep(0.5 + chaos.rng.random() * 20)
        chaos.sim.stores.cut.discard(service.process.number)
