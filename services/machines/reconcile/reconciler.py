"""One pass: the whole fleet is compared in rows; who differs is loaded, looked at again, and only then judged.

Records are loaded before the second look, so a machine that moves meanwhile conflicts at the commit instead of being
judged by an old picture. A pass takes on a bounded number of machines; the next one follows at once when more differ.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import structlog

from services.chassis.errors import MalboxError
from services.chassis.patience import until_woken
from services.chassis.run import Runtime
from services.chassis.store import Conflict, Duplicate
from services.chassis.unit import Unit
from services.machines import app
from services.machines.domain.machine import Machine, NotPossible
from services.machines.errors import HypervisorRefused, HypervisorUnavailable, StaleEpoch
from services.machines.policy import Finding, Picture, Standing, judge
from services.machines.ports import DomainSeen, GuestNetwork, Hypervisor
from services.machines.reconcile.images import Images
from services.machines.reconcile.rows import Row, fleet, work_in_hand
from services.machines.reconcile.sight import EMPTY_CONFIRM_S, Sight, by_machine
from services.machines.reconcile.turns import Turns
from services.machines.reconcile.wishes import Wishes

INTRODUCE_INTERVAL_S = 60.0
PASS_GAP_S = 1.0
"""Passes follow one another no closer than this, however much happens."""
REST_PER_WORK = 4.0
"""After a pass that took long the next one waits so many times as long, up to the interval."""
SUSPECTS_MAX = 200
LOOKS_MAX = 64
LOOKS_AT_ONCE = 4
BATCH = 200
CATCH_UP_TRIES = 5

log = structlog.get_logger()


@dataclass
class Report:
    """What the last pass came to; shown by the service's health."""

    at: datetime | None = None
    is_close: bool = False
    took_s: float = 0.0
    machines: int = 0
    found: dict[str, str] = field(default_factory=dict)
    fault: str = ""


class Reconciler:
    """Compares and records; acting is left to the effects that the records call for."""

    def __init__(
        self, runtime: Runtime, hypervisor: Hypervisor, network: GuestNetwork, wishes: Wishes, interval_s: float
    ) -> None:
        self._runtime = runtime
        self._hypervisor = hypervisor
        self._wishes = wishes
        self._interval_s = interval_s
        self._host: str = runtime.settings.host
        self._sight = Sight(hypervisor, network)
        self._images = Images(hypervisor)
        self._wake = asyncio.Event()
        self._to_settle, self._to_act_on, self._to_look_at = Turns(SUSPECTS_MAX), Turns(SUSPECTS_MAX), Turns(LOOKS_MAX)
        self.last = Report()
        runtime.store.on_commit(lambda unit: self._wake.set() if unit.events else None)

    async def run(self) -> None:
        """A pass whenever something changed and at every interval, until cancelled; now and then says what is ready."""
        introduced_at = time.monotonic()
        looked_at = introduced_at - self._interval_s
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            while True:
                self._wake.clear()
                is_close = time.monotonic() - looked_at >= self._interval_s
                looked_at = time.monotonic() if is_close else looked_at
                await self._attempt(is_close=is_close)
                if time.monotonic() - introduced_at > INTRODUCE_INTERVAL_S:
                    introduced_at = time.monotonic()
                    with contextlib.suppress(MalboxError):  # said again in a minute
                        await self.introduce(only_ready=True)
                await asyncio.sleep(max(PASS_GAP_S, min(REST_PER_WORK * self.last.took_s, self._interval_s)))
                limit_s = EMPTY_CONFIRM_S if self._sight.is_in_doubt else self._interval_s
                await until_woken(self._wake, limit_s)

    def condition(self) -> dict[str, Any]:
        """What the service's health shows of it."""
        return {"reconciliation": asdict(self.last) | {"at": self.last.at.isoformat() if self.last.at else None}}

    def hindrance(self, machine_id: str) -> str:
        """Why the machine cannot become what it is to be: its image is not there. Empty when nothing is known."""
        spec = self._wishes.specs.get(machine_id)
        return "" if spec is None else self._images.missing.get(spec.image, "")

    async def begin(self) -> None:
        """Before anything is asked of the service: no record is behind its host, and every machine is said again.

        A database that was put back from a backup would give epochs again that the host acted for. Raises
        HypervisorUnavailable, StoreUnavailable.
        """
        fences = await self._sight.fences()
        rows = await fleet(self._runtime.store, self._host)
        behind = [name for name, row in rows.items() if fences.get(name, -1) > row.standing.epoch]
        for name in sorted(behind):
            await self._catch_up(name, Picture(None, fences, frozenset(), self._runtime.clock.now()))
        await self.introduce()

    async def introduce(self, *, only_ready: bool = False) -> None:
        """Every machine of this host (that stands ready) is said again: whoever lost an earlier word learns of it."""
        rows = await fleet(self._runtime.store, self._host)
        known = [row for row in rows.values() if row.standing.state == "ready" or not only_ready]
        known = [row for row in known if row.standing.state != "retired"]
        for start in range(0, len(known), BATCH):
            unit = self._runtime.unit()
            for row in known[start : start + BATCH]:
                at = row.standing
                app.introduce(unit, row.summary(), state=at.state, epoch=at.epoch, version=row.version)
            await self._runtime.store.commit(unit)

    async def pass_once(self, *, is_close: bool = True) -> Report:
        """Everything is compared once; `is_close`: what stands ready is looked at closely. Raises StoreUnavailable."""
        began, now = time.monotonic(), self._runtime.clock.now()
        unread = "" if self._wishes.refresh() else "the machines file is being written"
        rows = await fleet(self._runtime.store, self._host)
        domains, picture, unseen = await self._look(now)
        images = await self._images.look(self._wishes.specs.values())
        faults = (self._wishes.fault or unread, unseen, self._sight.network_fault, self._images.fault)
        found = {row.standing.machine_id: found for row in rows.values() if (found := judge(row.standing, picture))}
        unsettled = self._unsettled(rows, images)
        await self._settle(self._to_settle.take(unsettled), images)
        acted = await self._act(self._to_act_on.take(found))
        if domains is not None:
            await self._remove_strays(domains, rows)
            acted |= await self._look_closely(rows, found.keys() | acted.keys()) if is_close else {}
        if max(len(found), len(unsettled)) > SUSPECTS_MAX:
            self._wake.set()
        took_s = time.monotonic() - began
        self.last = Report(now, is_close, took_s, len(rows), acted, "; ".join(filter(None, faults)))
        return self.last

    async def _catch_up(self, name: str, picture: Picture) -> None:
        """The record is not behind the host's fence any more, by whosever hand."""
        for _ in range(CATCH_UP_TRIES):
            machine = await self._load(name)
            finding = judge(Standing.of(machine), picture) if machine is not None else None
            if machine is None or finding is None or finding.act != "repair":
                return
            await self._deal(machine, finding, picture.fences[name])

    async def _attempt(self, *, is_close: bool) -> None:
        try:
            await self.pass_once(is_close=is_close)
        except MalboxError as error:
            log.warning("reconciliation_was_interrupted", reason=str(error))
            self.last.fault = str(error)
        except Exception as error:  # a defect of ours: machines are still leased and cleaned, and the next pass is due
            log.exception("reconciliation_failed")
            self.last.fault = f"{type(error).__name__}: {error}"

    async def _listen(self) -> None:
        """What the hypervisor tells of is a reason for a pass."""
        while True:
            await self._hypervisor.changed()
            self._wake.set()
            await asyncio.sleep(PASS_GAP_S / 4)  # what happens in bursts is one reason

    async def _look(self, now: datetime) -> tuple[list[DomainSeen] | None, Picture, str]:
        """The host as it is now, and why it was not seen. One that was not is not a host on which nothing runs."""
        work = await work_in_hand(self._runtime.store, self._host)
        fences: Mapping[str, int] = {}
        domains: list[DomainSeen] | None = None
        try:
            fences = await self._sight.fences()
            domains = await self._sight.domains()
            unseen = (
                "" if domains is not None else "the hypervisor shows no domain at all, which a second look confirms"
            )
        except HypervisorUnavailable as error:
            log.warning("hypervisor_was_unavailable", reason=str(error))
            unseen = f"the hypervisor was not seen: {error}"
        return domains, Picture(by_machine(domains), fences, work, now), unseen

    def _unsettled(self, rows: Mapping[str, Row], images: Mapping[str, str]) -> list[str]:
        """Machines that are not yet what they are to be, and not on their way there."""
        return [name for name in self._wishes.specs if not self._is_settled(rows.get(name), name, images)]

    def _is_settled(self, row: Row | None, name: str, images: Mapping[str, str]) -> bool:
        if row is None:
            return False
        identity = images.get(self._wishes.specs[name].image)
        if row.standing.state == "retired" or identity is None:
            return True
        return row.standing.state != "registered" and row.wants(self._wishes.as_json[name], identity)

    async def _settle(self, names: list[str], images: Mapping[str, str]) -> None:
        """The operator's machines are registered, built when their image is, rebuilt when either changed."""
        for name in names:
            spec, unit = self._wishes.specs[name], self._runtime.unit()
            app.settle(unit, await self._load(name), spec, images.get(spec.image))
            await self._commit(unit, name)

    async def _act(self, names: list[str]) -> dict[str, str]:
        """Those that seemed to differ are loaded, looked at again, and dealt with if they do; what was done."""
        loaded = [machine for name in names if (machine := await self._load(name)) is not None]
        acted: dict[str, str] = {}
        if not loaded:
            return acted
        _, picture, _ = await self._look(self._runtime.clock.now())
        for machine in loaded:
            finding = judge(Standing.of(machine), picture)
            if finding is not None and await self._deal(machine, finding, picture.fences.get(machine.machine_id, -1)):
                acted[machine.machine_id] = finding.kind
        return acted

    async def _deal(self, machine: Machine, finding: Finding, fence: int) -> bool:
        log.warning(
            "machine_diverged",
            machine=machine.machine_id,
            state=machine.state,
            act=finding.act,
            kind=finding.kind,
            reason=finding.reason,
        )
        if finding.act == "destroy":
            return await self._destroy(machine)
        unit = self._runtime.unit()
        try:
            app.carry_out(unit, machine, finding, fence)
        except NotPossible as refusal:
            log.info("finding_was_out_of_date", machine=machine.machine_id, reason=str(refusal))
            return False
        return await self._commit(unit, machine.machine_id)

    async def _destroy(self, machine: Machine) -> bool:
        try:
            await self._hypervisor.destroy(machine.machine_id, epoch=machine.epoch)
        except (HypervisorUnavailable, HypervisorRefused, StaleEpoch) as error:
            log.warning("domain_could_not_be_destroyed", machine=machine.machine_id, reason=str(error))
            return False
        return True

    async def _look_closely(self, rows: Mapping[str, Row], busy: frozenset[str] | set[str]) -> dict[str, str]:
        """Ready machines are looked at more closely than a listing shows, a bounded number in each pass, in turn."""
        turn = self._to_look_at.take(
            name for name, row in rows.items() if row.standing.state == "ready" and name not in busy
        )
        places = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def look(name: str) -> Finding | None:
            async with places:
                return await self._departures(name, rows[name].standing.epoch)

        async with asyncio.TaskGroup() as group:
            looks = {name: group.create_task(look(name)) for name in turn}
        acted: dict[str, str] = {}
        for name, task in looks.items():
            finding, machine = task.result(), await self._load(name) if task.result() else None
            is_it = machine is not None and (machine.state, machine.epoch) == ("ready", rows[name].standing.epoch)
            if finding and machine and is_it and await self._deal(machine, finding, -1):
                acted[name] = finding.kind
        return acted

    async def _departures(self, name: str, epoch: int) -> Finding | None:
        """In what a ready machine, looked at closely, is not what was verified."""
        try:
            found = await self._hypervisor.departures(name, epoch=epoch)
        except (StaleEpoch, HypervisorUnavailable) as error:
            log.info("machine_was_not_looked_at", machine=name, reason=str(error))
            return None
        except HypervisorRefused as refusal:
            return Finding("drift", "refused", str(refusal))
        if not found:
            return None
        return Finding("drift", found[0].kind, "; ".join(one.reason for one in found))

    async def _remove_strays(self, domains: list[DomainSeen], rows: Mapping[str, Row]) -> None:
        """A domain under our prefix that no record knows is destroyed; any other domain is never touched."""
        for domain in domains:
            machine_id = domain.machine_id
            if machine_id is None or machine_id in rows or await self._load(machine_id) is not None:
                continue
            log.warning("stray_domain_destroyed", machine=machine_id, domain=domain.name)
            try:
                await self._hypervisor.discard(domain.name)
            except (HypervisorUnavailable, HypervisorRefused) as error:
                log.warning("stray_domain_stands", domain=domain.name, reason=str(error))

    async def _load(self, machine_id: str) -> Machine | None:
        return await self._runtime.store.load(Machine, Machine.stream(machine_id))

    async def _commit(self, unit: Unit, machine_id: str) -> bool:
        if not (unit.events or unit.work or unit.outbox):
            return False
        try:
            await self._runtime.store.commit(unit)
        except (Conflict, Duplicate):
            log.info("reconciliation_was_overtaken", machine=machine_id)
            return False
        return True
