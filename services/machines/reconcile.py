"""Live reconciliation: what runs against what the record says, at start and at every interval. First version.

Rules: unable to observe is not "off"; an unexpected state of a ready machine is drift; a lease whose virtual machine
ended is over; a domain of ours that no record knows is destroyed; any other domain is never touched.
"""

import asyncio
import time

import structlog

from contracts.machines import ExpiryCause
from services.chassis.errors import MalboxError
from services.chassis.run import Runtime
from services.chassis.store import Conflict
from services.chassis.unit import Unit
from services.machines import app
from services.machines.domain.machine import Machine
from services.machines.domain.spec import MachineSpec
from services.machines.errors import HypervisorRefused, HypervisorUnavailable, StaleEpoch
from services.machines.policy import divergence, is_overdue
from services.machines.ports import DomainSeen, Hypervisor

INTRODUCE_INTERVAL_S = 60.0

log = structlog.get_logger()


class Reconciler:
    """Compares and records; acting is left to the effects that the records call for."""

    def __init__(self, runtime: Runtime, hypervisor: Hypervisor, specs: list[MachineSpec], interval_s: float) -> None:
        self._runtime = runtime
        self._hypervisor = hypervisor
        self._specs = specs
        self._interval_s = interval_s

    async def introduce(self, *, only_ready: bool = False) -> None:
        """Every machine that is known (or stands ready) is said again: whoever lost an earlier word learns of it."""
        for spec in self._specs:
            unit = self._runtime.unit()
            machine = await self._load(spec.machine_id)
            if machine is not None and (machine.state == "ready" or not only_ready):
                app.introduce(unit, machine)
                await self._runtime.store.commit(unit)

    async def run(self) -> None:
        """Settles and compares at every interval until cancelled; now and then says what stands ready."""
        introduced_at = time.monotonic()
        while True:
            try:
                await self.settle()
                await self.compare()
                if time.monotonic() - introduced_at > INTRODUCE_INTERVAL_S:
                    introduced_at = time.monotonic()
                    await self.introduce(only_ready=True)
            except HypervisorUnavailable as error:
                log.warning("hypervisor_was_unavailable", reason=str(error))
            except MalboxError as error:
                log.warning("reconciliation_was_interrupted", reason=str(error))
            await asyncio.sleep(self._interval_s)

    async def settle(self) -> None:
        """The operator's machines are registered, built when their image is, rebuilt when either changed."""
        for spec in self._specs:
            identity = await self._image_identity(spec)
            unit = self._runtime.unit()
            app.settle(unit, await self._load(spec.machine_id), spec, identity)
            await self._commit(unit, spec.machine_id)

    async def _image_identity(self, spec: MachineSpec) -> str | None:
        try:
            return await self._hypervisor.image_identity(spec)
        except HypervisorRefused:
            return None

    async def _load(self, machine_id: str) -> Machine | None:
        return await self._runtime.store.load(Machine, Machine.stream(machine_id))

    async def _commit(self, unit: Unit, machine_id: str) -> None:
        if not (unit.events or unit.work or unit.outbox):
            return
        try:
            await self._runtime.store.commit(unit)
        except Conflict:
            log.info("reconciliation_was_overtaken", machine=machine_id)

    async def compare(self) -> None:
        """One pass over all machines and all domains.

        Records are read before the hypervisor is observed: a machine that moved meanwhile conflicts at the commit
        instead of being judged by an old picture.
        """
        rows = await self._runtime.store.fetch("SELECT machine_id FROM fleet")
        names = {row["machine_id"] for row in rows} | {spec.machine_id for spec in self._specs}
        loaded = [await self._load(name) for name in sorted(names)]
        domains = {domain.machine_id: domain for domain in await self._hypervisor.observe() if domain.machine_id}
        for machine in loaded:
            if machine is not None:
                await self._judge(machine, domains.pop(machine.machine_id, None))
        for stray in domains.values():
            await self._remove_stray(stray)

    async def _judge(self, machine: Machine, domain: DomainSeen | None) -> None:
        now = self._runtime.clock.now()
        reason = divergence(machine, domain, now) or await self._departures(machine)
        if reason is None:
            return
        log.warning("machine_diverged", machine=machine.machine_id, state=machine.state, reason=reason)
        unit = self._runtime.unit()
        if machine.state == "ready":
            machine.drift(reason, reason, unit.at)
            app.record(unit, machine)
        elif machine.state == "quarantined":
            app.begin_work(unit, machine)
        else:
            cause: ExpiryCause = "deadline" if is_overdue(machine, now) else "guest_lost"
            app.expire(unit, machine, machine.lease_id or "", cause, reason)
        await self._commit(unit, machine.machine_id)

    async def _departures(self, machine: Machine) -> str | None:
        """In what a ready machine, looked at closely, is not what was verified."""
        if machine.state != "ready":
            return None
        try:
            found = await self._hypervisor.departures(machine.machine_id, epoch=machine.epoch)
        except StaleEpoch as error:
            log.warning("fence_stands_higher", machine=machine.machine_id, reason=str(error))
            return None
        return "; ".join(one.reason for one in found) or None

    async def _remove_stray(self, domain: DomainSeen) -> None:
        machine_id = domain.machine_id or ""
        if await self._load(machine_id) is None:
            log.warning("stray_domain_destroyed", machine=machine_id, domain=domain.name)
            await self._hypervisor.discard(domain.name)
