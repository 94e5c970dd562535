"""What work finds when it begins, and what is recorded of how it went, under its claim."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from services.chassis.errors import TransientError
from services.chassis.unit import Unit
from services.chassis.work import WorkContext, WorkItem
from services.machines import app
from services.machines.domain.fence import Claim
from services.machines.domain.machine import Machine
from services.machines.domain.record import QuarantineCause
from services.machines.errors import (
    DigestMismatch,
    HypervisorUnavailable,
    NetworkUnavailable,
    StaleClaim,
    StaleEpoch,
)
from services.machines.policy import work_for
from services.machines.ports import GuestNetwork, Hypervisor

AWAY_RETRY_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Charge:
    """A machine as its work found it, and the claim under which the work acts on it."""

    machine: Machine
    claim: Claim

    @property
    def machine_id(self) -> str:
        """The machine's."""
        return self.machine.machine_id

    @property
    def epoch(self) -> int:
        """That the work is of."""
        return self.machine.epoch


class Outcomes:
    """Records how work went. Each record is refused by the store once another has the claim."""

    def __init__(self, hypervisor: Hypervisor, network: GuestNetwork) -> None:
        self._hypervisor = hypervisor
        self._network = network

    async def current(self, item: WorkItem, context: WorkContext, unit: Unit | None = None) -> Charge | None:
        """The machine, if the work still makes sense: same epoch, and the state that the work is for."""
        machine = await context.store.load(Machine, Machine.stream(item.payload["machine_id"]), unit)
        if machine is None:
            raise TransientError(f"no machine {item.payload['machine_id']}")
        if machine.epoch != item.payload["epoch"] or work_for(machine) != item.kind:
            log.info("work_was_out_of_date", state=machine.state, epoch=machine.epoch)
            return None
        return Charge(machine, Claim(item.work_id, item.attempt))

    async def record(self, item: WorkItem, context: WorkContext, happen: Callable[[Machine, Unit], None]) -> None:
        """The outcome is recorded on the machine as it is now, if the work still makes sense."""

        async def decide(unit: Unit) -> None:
            charge = await self.current(item, context, unit)
            if charge is not None:
                happen(charge.machine, unit)
                app.record(unit, charge.machine)

        await context.commit(decide, finish=True)

    async def decide(self, item: WorkItem, context: WorkContext, decide: Callable[[Machine, Unit], None]) -> None:
        """The work is over with what is decided about the machine as it is now."""

        async def fill(unit: Unit) -> None:
            machine = await context.store.load(Machine, Machine.stream(item.payload["machine_id"]), unit)
            if machine is not None:
                decide(machine, unit)

        await context.commit(fill, finish=True)

    async def fail(
        self, item: WorkItem, context: WorkContext, error: Exception, happen: Callable[[Machine, Unit], None]
    ) -> None:
        """The failure is recorded, unless nobody can be asked: then it is nobody's failure, and tried again later.

        A file that is not the one that was digested is no matter for another attempt.
        """
        cause: QuarantineCause = "digest_mismatch"
        if isinstance(error, StaleEpoch):
            await self.refused(item, context, error)
        elif await self.is_nobodys(error):
            await self._begin_again(item, context)
        elif isinstance(error, DigestMismatch):
            await self.record(item, context, lambda fresh, unit: fresh.quarantine(str(error), unit.at, cause))
        else:
            await self.record(item, context, happen)

    async def refused(self, item: WorkItem, context: WorkContext, error: StaleEpoch) -> None:
        """A fence stands higher. Where the epoch is behind, the reconciler repairs it.

        Where the claim is, and the store has none that is later, a later one was forgotten with a store that was put
        back: only another epoch is obeyed again. An overtaken worker cannot record that: its claim is not the latest.
        """
        log.warning("fence_stands_higher", machine=item.payload["machine_id"], reason=str(error))
        if isinstance(error, StaleClaim):
            await self.record(item, context, lambda fresh, unit: fresh.repair_claim(unit.at))

    async def is_nobodys(self, error: Exception) -> bool:
        """Whether the failure says nothing of the machine: hypervisor or network helper cannot be asked at all."""
        return isinstance(error, TransientError) and await self._is_away()

    async def _begin_again(self, item: WorkItem, context: WorkContext) -> None:
        """The same work is to be done a little later, as if it had not been tried."""

        async def decide(unit: Unit) -> None:
            charge = await self.current(item, context, unit)
            if charge is not None:
                app.begin_work(unit, charge.machine, after_s=AWAY_RETRY_S)

        await context.commit(decide, finish=True)

    async def _is_away(self) -> bool:
        try:
            await self._hypervisor.observe()
            await self._network.observe()
        except (HypervisorUnavailable, NetworkUnavailable):
            return True
        return False
