"""The faults: each is drawn from the seed, counted when it happens, and over when the time of faults is over."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.run import Simulation
    from tests.simulation.services import SimService

Fault = Callable[["Chaos"], Coroutine[Any, Any, None]]
TAKEN_OVER_S = 18.0
"""So long after a driver stood still the next one drives, at the earliest: a process is started, and sees no beat."""
FAULTS: dict[str, tuple[float, Fault]] = {}
"""Name -> (how likely a seed has it, what makes it happen until the faults end)."""


def fault(share: float) -> Callable[[Fault], Fault]:
    """The function is a fault that so large a share of the seeds has."""

    def kept(function: Fault) -> Fault:
        FAULTS[function.__name__] = (share, function)
        return function

    return kept


class Chaos:
    """Makes faults happen in one simulation, until they are over."""

    def __init__(self, sim: "Simulation") -> None:
        self.sim = sim
        self.rng = sim.rng
        self.is_over = False
        self.zombies: list[SimService] = []
        self.chosen = [name for name, (share, _) in FAULTS.items() if share and self.rng.random() < share]
        self._wanted: list[Callable[[Process], None]] = []

    def start(self) -> None:
        """The chosen faults begin."""
        for name in self.chosen:
            self.sim.loop.world.spawn(FAULTS[name][1](self))

    def count(self, name: str) -> None:
        """The fault happened."""
        self.sim.counts[f"fault {name}"] += 1

    async def after(self, mean_s: float) -> bool:
        """Whether faults are still to happen, some time later."""
        await asyncio.sleep(self.rng.expovariate(1 / mean_s))
        return not self.is_over

    def at_an_await(self, act: Callable[[Process], None]) -> None:
        """The next process that is about to go on after some drawn step is acted on instead."""
        self._wanted.append(act)
        self.sim.loop.on_countdown = self._reached
        self.sim.loop.countdown = self.rng.randrange(400)

    def _reached(self, process: Process) -> None:
        wanted, self._wanted = self._wanted, []
        for act in wanted:
            if not self.is_over:
                act(process)

    def end(self) -> None:
        """No fault happens any more, and what can be mended is."""
        sim = self.sim
        self.is_over = True
        sim.ambiguous_rate = 0.0
        sim.store_is_down = False
        sim.store_cut.clear()
        sim.broker.duplicate_rate = sim.broker.delay_rate = sim.broker.lost_confirm_rate = 0.0
        sim.world.failure_rate = sim.world.slow_rate = sim.world.unkillable_rate = sim.world.mute_rate = 0.0
        sim.world.is_down = False
        sim.blobs.failure_rate = sim.sandbox.crash_rate = 0.0
        if sim.broker.is_down or sim.broker.cut:
            sim.broker.is_down = False
            sim.broker.cut.clear()
            for service in sim.everybody():
                if service.consumer is not None:
                    service.consumer.reconnect()
        for service in sim.everybody():
            if service.process.is_paused:
                service.process.resume()

    def service_of(self, process: Process) -> "SimService | None":
        """The service whose process that is."""
        return next((service for service in self.sim.everybody() if service.process is process), None)

    def anyone(self) -> "SimService":
        """A service that runs, or the last that did."""
        running = [self.sim.live[name] for name in sorted(self.sim.live)]
        return self.rng.choice(running) if running else self.sim.latest


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


@fault(0.4)
async def ambiguous_commit(chaos: Chaos) -> None:
    """A commit stands and its reply is lost."""
    chaos.sim.ambiguous_rate = 0.03


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
        chaos.sim.store_is_down = True
        chaos.sim.cut_connections()
        await asyncio.sleep(0.5 + chaos.rng.random() * 10)
        chaos.sim.store_is_down = False


@fault(0.15)
async def store_restored(chaos: Chaos) -> None:
    """An older backup is put back, as operators are told to: what was accepted since is lost, and the broker's data."""
    if await chaos.after(15):
        backup = chaos.sim.backup()
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
        chaos.sim.store_cut.add(service.process.number)
        service.pool.cut()
        await asyncio.sleep(0.5 + chaos.rng.random() * 20)
        chaos.sim.store_cut.discard(service.process.number)


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


@fault(0.3)
async def drift(chaos: Chaos) -> None:
    """Somebody else destroys, suspends or resumes a machine."""
    while await chaos.after(20):
        host = chaos.rng.choice([chaos.sim.world.hosts[name] for name in sorted(chaos.sim.world.hosts)] or [None])
        if host is None or host.life is None:
            continue
        what = chaos.rng.choice(("destroyed", "suspended", "resumed"))
        chaos.count(f"drift {what}")
        if what == "destroyed":
            chaos.sim.world.gone(host)
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
            chaos.sim.db_offset_s += jump_s
        else:
            chaos.count("clock_jump service")
            chaos.anyone().process.wall_offset_s += jump_s


@fault(0.15)
async def cancellations(chaos: Chaos) -> None:
    """Somebody cancels a task."""
    while await chaos.after(20):
        accepted = [client for client in chaos.sim.clients if client.is_accepted and not client.is_cancelled]
        if accepted:
            await chaos.sim.cancel(chaos.rng.choice(accepted))


@fault(0.08)
async def image_rebuilt(chaos: Chaos) -> None:
    """The operator builds the image anew."""
    if await chaos.after(40):
        chaos.count("image_rebuilt")
        chaos.sim.world.image = "image-2"
