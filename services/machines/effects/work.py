"""The kinds of work of one host, and what each of them makes true."""

from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.machines import app
from services.machines.adapters.authorities import Authorities
from services.machines.adapters.incarnations import refuse_known, remember
from services.machines.domain.machine import Machine
from services.machines.effects.guests import Guests
from services.machines.effects.networks import Networks
from services.machines.effects.outcomes import Charge, Outcomes
from services.machines.effects.troubles import Troubles
from services.machines.errors import GuestRefused, NetworkRefused, NetworkUnavailable, StaleEpoch
from services.machines.ports import GuestAddress, GuestEnroller, GuestNetwork, Hypervisor

STOP_TRIES = 10
STOP_TRIES_SEEN = 5
"""After so many a network that nobody can look at is taken away all the same: it leads out as long as it stands."""


class Effects:
    """Carries out the work of one host."""

    def __init__(
        self, hypervisor: Hypervisor, enroller: GuestEnroller, authorities: Authorities, network: GuestNetwork
    ) -> None:
        self._hypervisor = hypervisor
        self._guests = Guests(hypervisor, enroller)
        self._networks = Networks(network)
        self._outcomes = Outcomes(hypervisor, network)
        self._authorities = authorities
        self.troubles = Troubles()

    def runners(self) -> tuple[Runner, ...]:
        """What the worker is to run. A failed attempt is an event of the machine: the chassis retries only faults."""
        return (
            Runner("provision", self.provision, self.give_up_provisioning, concurrency=1, attempts_max=3),
            Runner("clean", self.clean, self.give_up_cleaning, attempts_max=3),
            Runner("verify", self.verify, self.give_up_verifying, concurrency=2, attempts_max=3),
            Runner("prepare", self.prepare, self.give_up_preparing, attempts_max=2),
            Runner("stop", self.stop, self.give_up_stopping, attempts_max=STOP_TRIES),
            Runner("expire", self.expire, attempts_max=10),
            Runner("hurry", self.hurry, attempts_max=10),
            Runner("cure", self.cure, attempts_max=10),
        )

    async def provision(self, item: WorkItem, context: WorkContext) -> None:
        """The warm snapshot stands, holding an identity of a fresh authority."""
        on = await self._outcomes.current(item, context)
        if on is None:
            return
        authority = self._guests.create_authority(on)

        async def agent_waits(address: GuestAddress) -> None:
            await self._guests.wait_for(on, address, authority)

        identity = await self._hypervisor.image_identity(on.machine.spec)
        await self._networks.plug(on)
        built = await self._hypervisor.provision(
            on.machine.spec, epoch=on.epoch, enrolment=authority.enrolment, agent_waits=agent_waits, claim=on.claim
        )

        self.troubles.stopped(on.machine_id)

        def happen(fresh: Machine, unit: Unit) -> None:
            self._authorities.keep(unit, on.machine_id, authority)
            fresh.complete_provisioning(
                acceleration=built.acceleration,
                image_identity=identity,
                evidence=built.evidence,
                at=unit.at,
            )

        await self._outcomes.record(item, context, happen)

    async def clean(self, item: WorkItem, context: WorkContext) -> None:
        """Nothing of an earlier epoch is left."""
        on = await self._outcomes.current(item, context)
        if on is None:
            return
        await self._hypervisor.destroy(on.machine_id, epoch=on.epoch, claim=on.claim)
        if reason := await self._networks.breach(on):
            await self._outcomes.record(item, context, lambda fresh, unit: fresh.breach_isolation(reason, unit.at))
            return
        await self._networks.unplug(on, context)
        self.troubles.stopped(on.machine_id)
        await self._outcomes.record(item, context, lambda fresh, unit: fresh.complete_cleaning(unit.at))

    async def verify(self, item: WorkItem, context: WorkContext) -> None:
        """A fresh incarnation proved itself, its agent serves the next lease and no other, and it stands still.

        Enrolling takes an emulated guest about a second. It is done here, in the background, so that a lease costs no
        more than letting the machine run; whoever leases it proves the agent again when connecting.
        """
        on = await self._outcomes.current(item, context)
        if on is None:
            return
        await self._networks.plug(on)
        incarnation = await self._hypervisor.restore(on.machine.spec, epoch=on.epoch, claim=on.claim)
        authority = await self._authorities.load(on.machine_id)
        evidence = await self._guests.evidence(on, incarnation, authority)
        enrolment = await self._guests.enrol(on, authority)
        await refuse_known(context.store, enrolment.instance_id)
        endpoint = await self._guests.endpoint(on, enrolment, authority)
        await self._hypervisor.pause(on.machine_id, epoch=on.epoch, claim=on.claim)
        evidence |= await self._networks.isolated(on)

        def happen(fresh: Machine, unit: Unit) -> None:
            remember(unit, enrolment.instance_id, fresh)
            planted = ", ".join(enrolment.canary_places)
            known = {**evidence, "instance_id": enrolment.instance_id, "canary_planted": planted}
            fresh.verify_clean(known, unit.at, endpoint)

        await self._outcomes.record(item, context, happen)

    async def prepare(self, item: WorkItem, context: WorkContext) -> None:
        """The machine is on its route, runs, and its agent serves only this lease."""
        on = await self._outcomes.current(item, context)
        if on is None:
            return
        endpoint = on.machine.next_endpoint
        if endpoint is None or on.machine.current is None:
            raise GuestRefused("the machine stood ready without an agent enrolled for this lease")
        await self._open(on)
        grant = on.machine.current.grant
        await self._hypervisor.resume(on.machine_id, epoch=on.epoch, grant=grant, claim=on.claim)
        await self._outcomes.record(item, context, lambda fresh, unit: fresh.attest(endpoint, unit.at))

    async def stop(self, item: WorkItem, context: WorkContext) -> None:
        """Nothing of a machine that is out of the pool runs. Its files and its authority stay until it is retired."""
        on = await self._outcomes.current(item, context)
        if on is None:
            return
        is_retired = on.machine.state == "retired"
        end = self._hypervisor.erase if is_retired else self._hypervisor.halt
        await end(on.machine_id, epoch=on.epoch, claim=on.claim)
        if reason := await self._networks.breach(on, must_look=item.attempt <= STOP_TRIES_SEEN):
            await self._outcomes.record(item, context, lambda fresh, unit: fresh.breach_isolation(reason, unit.at))
            return
        await self._networks.unplug(on, context)
        self.troubles.stopped(on.machine_id)
        if is_retired:

            async def forget(unit: Unit) -> None:
                self._authorities.forget(unit, on.machine_id)

            await context.commit(forget)

    async def expire(self, item: WorkItem, context: WorkContext) -> None:
        """A lease that reached its hard deadline is over."""
        lease_id, reason = item.payload["lease_id"], "the lease reached its hard deadline"
        await self._outcomes.decide(
            item, context, lambda machine, unit: app.expire(unit, machine, lease_id, "deadline", reason)
        )

    async def hurry(self, item: WorkItem, context: WorkContext) -> None:
        """A machine that is still where it was and should not be any more is led out of there."""

        def lead(machine: Machine, unit: Unit) -> None:
            if (machine.state, machine.epoch) == (item.payload["state"], item.payload["epoch"]):
                of = self.troubles.is_hosts_fault(machine.route, machine.machine_id)
                app.hurry(unit, machine, is_hosts_fault=of)

        await self._outcomes.decide(item, context, lead)

    async def cure(self, item: WorkItem, context: WorkContext) -> None:
        """A quarantined machine that may be is built again."""

        def build(machine: Machine, unit: Unit) -> None:
            if machine.epoch == item.payload["epoch"]:
                app.cure(unit, machine)

        await self._outcomes.decide(item, context, build)

    async def give_up_provisioning(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """The build failed."""
        reason = str(error)
        await self._outcomes.fail(item, context, error, lambda fresh, unit: fresh.fail_provisioning(reason, unit.at))

    async def give_up_cleaning(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """Cleaning failed."""
        await self._outcomes.fail(item, context, error, lambda fresh, unit: fresh.fail_cleaning(str(error), unit.at))

    async def give_up_verifying(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """There is no evidence."""
        reason = str(error)
        await self._outcomes.fail(item, context, error, lambda fresh, unit: fresh.fail_verification(reason, unit.at))

    async def give_up_preparing(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """The guest could not be made ready for its lease: the attempt failed, the machine is cleaned.

        Not so where the fence stands higher: ending the lease would give an epoch a second time that the host knows.
        """
        if isinstance(error, StaleEpoch):
            await self._outcomes.refused(item, context, error)
            return
        reason = f"the guest could not be prepared: {error}"
        is_routes = isinstance(error, (NetworkUnavailable, NetworkRefused))
        is_nobodys = await self._outcomes.is_nobodys(error)

        def happen(fresh: Machine, unit: Unit) -> None:
            of = is_nobodys or (is_routes and self.troubles.is_hosts_fault(fresh.route, fresh.machine_id))
            fresh.expire_lease(fresh.lease_id or "", "not_prepared", reason, unit.at, is_hosts_fault=of)

        await self._outcomes.record(item, context, happen)

    async def give_up_stopping(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """It is shown; whoever sees that the machine still runs asks again."""
        if isinstance(error, StaleEpoch):
            await self._outcomes.refused(item, context, error)
        else:
            self.troubles.stop_given_up(item.payload["machine_id"], item.payload["epoch"], str(error))

    async def _open(self, on: Charge) -> None:
        try:
            await self._networks.open(on)
        except (NetworkUnavailable, NetworkRefused) as error:
            self.troubles.route_failed(on.machine.route, on.machine_id, on.machine.lease_id, str(error))
            raise
        self.troubles.route_opened(on.machine.route, on.machine_id)
