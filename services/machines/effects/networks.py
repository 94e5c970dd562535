"""The analysis network of a machine that work acts on: there before its guest, gone after it, looked at in between."""

import structlog

from services.chassis.unit import Unit
from services.chassis.work import WorkContext
from services.machines import app
from services.machines.effects.outcomes import Charge
from services.machines.errors import IsolationBroken, NetworkRefused, NetworkUnavailable
from services.machines.ports import CaptureTaken, GuestNetwork

log = structlog.get_logger()


class Networks:
    """Does nothing for machines that have no analysis card."""

    def __init__(self, network: GuestNetwork) -> None:
        self._network = network

    async def plug(self, on: Charge) -> None:
        """The network stands before the guest does, and lets nothing pass."""
        if on.machine.spec.has_analysis_card:
            await self._network.plug(on.machine_id, epoch=on.epoch, claim=on.claim)

    async def open(self, on: Charge) -> None:
        """It is on the lease's route."""
        if on.machine.spec.has_analysis_card:
            lease_id, route = on.machine.lease_id or "", on.machine.route
            await self._network.open(on.machine_id, epoch=on.epoch, lease_id=lease_id, route=route, claim=on.claim)

    async def isolated(self, on: Charge) -> dict[str, str]:
        """The evidence that nothing of the standing guest's could have got anywhere. Raises IsolationBroken."""
        if not on.machine.spec.has_analysis_card:
            return {}
        seen = await self._network.verify(on.machine_id, epoch=on.epoch, claim=on.claim)
        if seen.passed:
            raise IsolationBroken(f"{seen.passed} frames of a guest that nobody leased were let through")
        return {"network_sha256": seen.rules_sha256, "network_passed": str(seen.passed)}

    async def breach(self, on: Charge, *, must_look: bool = True) -> str:
        """How the network of the lease that ended last is not as it must be; empty when nothing of that was seen.

        The last look at it, before it is taken away: a breach that nobody was told of does not go with it. Raises
        NetworkUnavailable while nobody can look and somebody `must_look`: it is not taken away unseen by whoever finds
        the helper back.
        """
        if on.machine.spec.has_analysis_card and on.machine.has_unseen_network:
            try:
                await self._network.verify(on.machine_id, epoch=on.epoch, claim=on.claim)
            except IsolationBroken as broken:
                return str(broken)
            except NetworkRefused as error:
                log.info("network_was_not_compared", machine=on.machine_id, reason=str(error))
            except NetworkUnavailable as error:
                if must_look:
                    raise
                log.warning("network_goes_unseen", machine=on.machine_id, reason=str(error))
        return ""

    async def unplug(self, on: Charge, context: WorkContext) -> None:
        """The ended guest's packets are in the object store and told of, and nothing of its network is left.

        Nothing here may keep a guest alive, so it has ended before: its card stays until the network goes.
        """
        if not on.machine.spec.has_analysis_card:
            return
        taken = await self._seal(on)
        if taken is not None:  # told before the network goes, and the record with it: whoever repeats this finds none

            async def tell(unit: Unit) -> None:
                app.tell_capture(unit, on.machine, taken)

            await context.commit(tell)
        await self._network.close(on.machine_id, epoch=on.epoch, claim=on.claim)

    async def _seal(self, on: Charge) -> CaptureTaken | None:
        """A record that cannot be had is lost, and no reason to leave the network standing."""
        try:
            return await self._network.seal(on.machine_id, epoch=on.epoch, claim=on.claim)
        except (NetworkUnavailable, NetworkRefused) as error:
            log.warning("packets_were_not_kept", machine=on.machine_id, reason=str(error))
            return None
