"""Watches over the networks of leased and of ready machines: by event, and by looking at every one at intervals.

Whoever is not where it should be loses its lease or its readiness. Unable to look is not "broken".
"""

import asyncio

import structlog

from services.chassis.errors import MalboxError
from services.chassis.run import Runtime
from services.chassis.store import Conflict
from services.machines import app
from services.machines.domain.machine import Machine
from services.machines.errors import IsolationBroken, NetworkRefused, NetworkUnavailable, StaleEpoch
from services.machines.ports import Breach, GuestNetwork, NetworkSeen

RETRY_S = 1.0
BREACH_TRIES = 20
"""A machine that many act on at once: each of them moves it on, so the one who broke out is recorded after a few."""
_ON_A_ROUTE = frozenset({"active", "draining"})
_OUT_OF_THE_POOL = frozenset({"quarantined", "retired"})
_LOST = "its network is gone"

log = structlog.get_logger()


class IsolationWatch:
    """Compares each machine's network with its record, and records what is wrong."""

    def __init__(self, runtime: Runtime, network: GuestNetwork, interval_s: float) -> None:
        self._runtime = runtime
        self._network = network
        self._interval_s = interval_s

    async def listen(self) -> None:
        """Acts on each breach as it is told, until cancelled."""
        while True:
            try:
                async for breach in self._network.breaches():
                    await self._breached(breach)
            except MalboxError as error:
                log.warning("networks_were_not_watched", reason=str(error))
            except Exception:  # a defect of ours: the next breach is to be heard
                log.exception("isolation_watch_failed")
            await asyncio.sleep(RETRY_S)

    async def run(self) -> None:
        """Looks at every network at every interval, until cancelled."""
        while True:
            try:
                await self.compare()
            except MalboxError as error:
                log.warning("networks_were_not_compared", reason=str(error))
            except Exception:  # a defect of ours: the next look is due
                log.exception("isolation_watch_failed")
            await asyncio.sleep(self._interval_s)

    async def compare(self) -> None:
        """One pass over all networks and all machines of this host."""
        rows = await self._runtime.store.fetch(
            "SELECT machine_id FROM fleet WHERE host = $1", self._runtime.settings.host
        )
        networks = {network.machine_id: network for network in await self._network.observe()}
        for row in rows:
            name = row["machine_id"]
            try:
                await self._compare_one(name, networks.pop(name, None))
            except MalboxError:
                raise
            except Exception:  # a defect of ours: the other machines are looked at all the same
                log.exception("network_was_not_compared", machine=name)
        for stray in networks.values():
            await self._remove(stray)

    async def _compare_one(self, machine_id: str, network: NetworkSeen | None) -> None:
        machine = await self._load(machine_id)
        if machine is not None and network is not None and machine.state in _OUT_OF_THE_POOL:
            await self._stop_again(machine)
        elif machine is not None and machine.spec.has_analysis_card:
            await self._judge(machine)
        elif machine is not None and network is not None:
            await self._network.close(machine_id, epoch=max(machine.epoch, network.epoch))

    async def _judge(self, machine: Machine) -> None:
        if machine.state != "ready" and machine.state not in _ON_A_ROUTE:
            return
        try:
            await self._network.verify(machine.machine_id, epoch=machine.epoch)
        except IsolationBroken as broken:
            await self._breached(Breach(machine.machine_id, machine.epoch, str(broken), machine.lease_id))
        except NetworkRefused:
            await self._lost(machine)
        except (NetworkUnavailable, StaleEpoch) as error:
            log.warning("network_was_not_compared", machine=machine.machine_id, reason=str(error))

    async def _stop_again(self, machine: Machine) -> None:
        """Whoever gave up stopping it left its network: that is asked for again, unless it is being done."""
        unit = self._runtime.unit()
        app.begin_work(unit, machine)
        await self._runtime.store.commit(unit)

    async def _breached(self, breach: Breach) -> None:
        """It is recorded, however often something else happens to the machine first. Raises Conflict at the bound."""
        of = {"machine": breach.machine_id, "epoch": breach.epoch, "lease": breach.lease_id}
        log.error("isolation_was_breached", **of, reason=breach.reason)
        for _ in range(BREACH_TRIES):
            machine = await self._load(breach.machine_id)
            if machine is None:
                return
            unit = self._runtime.unit()
            app.breach(unit, machine, breach)
            if not unit.events:
                log.info("breach_was_of_an_incarnation_that_is_gone", **of, state=machine.state)
                return
            try:
                await self._runtime.store.commit(unit)
            except Conflict as conflict:
                last = conflict
            else:
                return
        raise last

    async def _lost(self, machine: Machine) -> None:
        """Its network is gone: a lease is lost; what stood ready is verified anew.

        The helper was started again, as on every upgrade: nobody tampered with the machine.
        """
        log.error("network_was_lost", machine=machine.machine_id, state=machine.state)
        unit = self._runtime.unit()
        if machine.state == "ready":
            machine.expire_evidence(_LOST, unit.at)
            app.record(unit, machine)
        else:
            app.expire(unit, machine, machine.lease_id or "", "guest_lost", _LOST)
        try:
            await self._runtime.store.commit(unit)
        except Conflict:
            log.info("isolation_was_overtaken", machine=machine.machine_id)

    async def _remove(self, stray: NetworkSeen) -> None:
        """A network of a machine that no record knows."""
        if await self._load(stray.machine_id) is None:
            log.warning("stray_network_was_removed", machine=stray.machine_id)
            await self._network.close(stray.machine_id, epoch=stray.epoch + 1)

    async def _load(self, machine_id: str) -> Machine | None:
        return await self._runtime.store.load(Machine, Machine.stream(machine_id))
