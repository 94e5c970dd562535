"""Recorded intents carried out on the hypervisor, and their outcomes recorded. Each is safe to repeat."""

from collections.abc import Callable

import structlog

from contracts.machines import GuestEndpoint
from services.chassis.errors import TransientError
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from services.machines import app
from services.machines.adapters.authorities import Authorities
from services.machines.adapters.incarnations import refuse_known, remember
from services.machines.domain.machine import Machine
from services.machines.domain.record import QuarantineCause
from services.machines.errors import (
    DigestMismatch,
    GuestRefused,
    HypervisorUnavailable,
    IsolationBroken,
    NetworkRefused,
    NetworkUnavailable,
    StaleEpoch,
)
from services.machines.policy import EVIDENCE_MAX_AGE_S, LEASE_MAX_S, work_for
from services.machines.ports import (
    Authority,
    CaptureTaken,
    Enrolment,
    GuestAddress,
    GuestEnroller,
    GuestNetwork,
    Hypervisor,
    Incarnation,
)

AGENT_BOOT_TIMEOUT_S = 180.0
AGENT_RESTORE_TIMEOUT_S = 20.0
ENROL_TIMEOUT_S = 15.0
AWAY_RETRY_S = 5.0
CERTIFICATE_LIFETIME_S = EVIDENCE_MAX_AGE_S + LEASE_MAX_S

log = structlog.get_logger()


class Effects:
    """Carries out the work of one host."""

    def __init__(
        self, hypervisor: Hypervisor, enroller: GuestEnroller, authorities: Authorities, network: GuestNetwork
    ) -> None:
        self._hypervisor = hypervisor
        self._network = network
        self._enroller = enroller
        self._authorities = authorities

    def runners(self) -> tuple[Runner, ...]:
        """What the worker is to run. A failed attempt is an event of the machine: the chassis retries only faults."""
        return (
            Runner("provision", self.provision, self.give_up_provisioning, concurrency=1, attempts_max=3),
            Runner("clean", self.clean, self.give_up_cleaning, attempts_max=3),
            Runner("verify", self.verify, self.give_up_verifying, concurrency=2, attempts_max=3),
            Runner("prepare", self.prepare, self.give_up_preparing, attempts_max=2),
            Runner("stop", self.stop, attempts_max=10),
            Runner("expire", self.expire, attempts_max=10),
            Runner("hurry", self.hurry, attempts_max=10),
            Runner("cure", self.cure, attempts_max=10),
        )

    async def provision(self, item: WorkItem, context: WorkContext) -> None:
        """The warm snapshot stands, holding an identity of a fresh authority."""
        machine = await self._current(item, context)
        if machine is None:
            return
        authority = self._enroller.create_authority(machine.machine_id)

        async def agent_waits(address: GuestAddress) -> None:
            await self._enroller.attest(address, authority, machine.machine_id, timeout_s=AGENT_BOOT_TIMEOUT_S)

        identity = await self._hypervisor.image_identity(machine.spec)
        await self._plug(machine)
        built = await self._hypervisor.provision(
            machine.spec, epoch=item.payload["epoch"], enrolment=authority.enrolment, agent_waits=agent_waits
        )
        await self._authorities.save(machine.machine_id, authority)
        await self._record(
            item,
            context,
            lambda fresh, unit: fresh.complete_provisioning(
                acceleration=built.acceleration,
                image_identity=identity,
                evidence=built.evidence,
                at=unit.at,
            ),
        )

    async def clean(self, item: WorkItem, context: WorkContext) -> None:
        """Nothing of an earlier epoch is left."""
        machine = await self._current(item, context)
        if machine is None:
            return
        await self._hypervisor.destroy(machine.machine_id, epoch=machine.epoch)
        if reason := await self._breach(machine):
            await self._record(item, context, lambda fresh, unit: fresh.breach_isolation(reason, unit.at))
            return
        await self._unplug(machine, context)
        await self._record(item, context, lambda fresh, unit: fresh.complete_cleaning(unit.at))

    async def verify(self, item: WorkItem, context: WorkContext) -> None:
        """A fresh incarnation proved itself, its agent serves the next lease and no other, and it stands still.

        Enrolling takes an emulated guest about a second. It is done here, in the background, so that a lease costs no
        more than letting the machine run; whoever leases it proves the agent again when connecting.
        """
        machine = await self._current(item, context)
        if machine is None:
            return
        await self._plug(machine)
        incarnation = await self._hypervisor.restore(machine.spec, epoch=machine.epoch)
        authority = await self._authorities.load(machine.machine_id)
        evidence = await self._evidence(machine, incarnation, authority)
        enrolment = await self._enrol(machine, incarnation.address, authority)
        await refuse_known(context.store, enrolment.instance_id)
        endpoint = await self._endpoint(machine, enrolment, authority)
        await self._hypervisor.pause(machine.machine_id, epoch=machine.epoch)
        evidence |= await self._isolated(machine)

        def happen(fresh: Machine, unit: Unit) -> None:
            remember(unit, enrolment.instance_id, fresh)
            planted = ", ".join(enrolment.canary_places)
            known = {**evidence, "instance_id": enrolment.instance_id, "canary_planted": planted}
            fresh.verify_clean(known, unit.at, endpoint)

        await self._record(item, context, happen)

    async def prepare(self, item: WorkItem, context: WorkContext) -> None:
        """The machine is on its route, runs, and its agent serves only this lease."""
        machine = await self._current(item, context)
        if machine is None:
            return
        endpoint = machine.next_endpoint
        if endpoint is None or machine.current is None:
            raise GuestRefused("the machine stood ready without an agent enrolled for this lease")
        if machine.spec.has_analysis_card:
            await self._network.open(
                machine.machine_id, epoch=machine.epoch, lease_id=machine.lease_id or "", route=machine.route
            )
        await self._hypervisor.resume(machine.machine_id, epoch=machine.epoch, grant=machine.current.grant)
        await self._record(item, context, lambda fresh, unit: fresh.attest(endpoint, unit.at))

    async def stop(self, item: WorkItem, context: WorkContext) -> None:
        """Nothing of a machine that is out of the pool runs. Its files stay as they are, until it is retired."""
        machine = await self._current(item, context)
        if machine is not None:
            end = self._hypervisor.destroy if machine.state == "retired" else self._hypervisor.halt
            await end(machine.machine_id, epoch=machine.epoch)
            await self._unplug(machine, context)

    async def expire(self, item: WorkItem, context: WorkContext) -> None:
        """A lease that reached its hard deadline is over."""
        lease_id, reason = item.payload["lease_id"], "the lease reached its hard deadline"
        await self._decide(item, context, lambda machine, unit: app.expire(unit, machine, lease_id, "deadline", reason))

    async def hurry(self, item: WorkItem, context: WorkContext) -> None:
        """A machine that is still where it was and should not be any more is led out of there."""

        def lead(machine: Machine, unit: Unit) -> None:
            if (machine.state, machine.epoch) == (item.payload["state"], item.payload["epoch"]):
                app.hurry(unit, machine)

        await self._decide(item, context, lead)

    async def cure(self, item: WorkItem, context: WorkContext) -> None:
        """A quarantined machine that may be is built again."""

        def build(machine: Machine, unit: Unit) -> None:
            if machine.epoch == item.payload["epoch"]:
                app.cure(unit, machine)

        await self._decide(item, context, build)

    async def give_up_provisioning(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """The build failed."""
        await self._fail(item, context, error, lambda fresh, unit: fresh.fail_provisioning(str(error), unit.at))

    async def give_up_cleaning(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """Cleaning failed."""
        await self._fail(item, context, error, lambda fresh, unit: fresh.fail_cleaning(str(error), unit.at))

    async def give_up_verifying(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """There is no evidence."""
        await self._fail(item, context, error, lambda fresh, unit: fresh.fail_verification(str(error), unit.at))

    async def give_up_preparing(self, item: WorkItem, context: WorkContext, error: Exception) -> None:
        """The guest could not be made ready for its lease: the attempt failed, the machine is cleaned.

        Not so where the fence stands higher: ending the lease would give an epoch a second time that the host knows.
        """
        if isinstance(error, StaleEpoch):
            log.warning("fence_stands_higher", machine=item.payload["machine_id"], reason=str(error))
            return
        reason = f"the guest could not be prepared: {error}"
        await self._record(
            item, context, lambda fresh, unit: fresh.expire_lease(fresh.lease_id or "", "not_prepared", reason, unit.at)
        )

    async def _plug(self, machine: Machine) -> None:
        """The network stands before the guest does, and lets nothing pass."""
        if machine.spec.has_analysis_card:
            await self._network.plug(machine.machine_id, epoch=machine.epoch)

    async def _isolated(self, machine: Machine) -> dict[str, str]:
        """The evidence that nothing of the standing guest's could have got anywhere. Raises IsolationBroken."""
        if not machine.spec.has_analysis_card:
            return {}
        seen = await self._network.verify(machine.machine_id, epoch=machine.epoch)
        if seen.passed:
            raise IsolationBroken(f"{seen.passed} frames of a guest that nobody leased were let through")
        return {"network_sha256": seen.rules_sha256, "network_passed": str(seen.passed)}

    async def _breach(self, machine: Machine) -> str:
        """How the network of the lease that ended last is not as it must be; empty when nothing of that was seen.

        The last look at it, before it is taken away: a breach that nobody was told of does not go with it.
        """
        if machine.spec.has_analysis_card and machine.last_task_id is not None:
            try:
                await self._network.verify(machine.machine_id, epoch=machine.epoch)
            except IsolationBroken as broken:
                return str(broken)
            except (NetworkUnavailable, NetworkRefused) as error:
                log.info("network_was_not_compared", machine=machine.machine_id, reason=str(error))
        return ""

    async def _unplug(self, machine: Machine, context: WorkContext) -> None:
        """The ended guest's packets are in the object store and told of, and nothing of its network is left.

        Nothing here may keep a guest alive, so it has ended before: its card stays until the network goes.
        """
        if not machine.spec.has_analysis_card:
            return
        taken = await self._seal(machine)
        if taken is not None:  # told before the network goes, and the record with it: whoever repeats this finds none

            async def tell(unit: Unit) -> None:
                app.tell_capture(unit, machine, taken)

            await context.commit(tell)
        await self._network.close(machine.machine_id, epoch=machine.epoch)

    async def _seal(self, machine: Machine) -> CaptureTaken | None:
        """A record that cannot be had is lost, and no reason to leave the network standing."""
        try:
            return await self._network.seal(machine.machine_id, epoch=machine.epoch)
        except (NetworkUnavailable, NetworkRefused) as error:
            log.warning("packets_were_not_kept", machine=machine.machine_id, reason=str(error))
            return None

    async def _evidence(self, machine: Machine, incarnation: Incarnation, authority: Authority) -> dict[str, str]:
        attested = await self._enroller.attest(
            incarnation.address, authority, machine.machine_id, timeout_s=AGENT_RESTORE_TIMEOUT_S
        )
        if not attested.is_fresh:
            raise GuestRefused("the restored agent was enrolled before: this is not a fresh incarnation")
        if attested.canaries:
            places = ", ".join(attested.canaries)
            raise GuestRefused(f"the restored guest holds the canary of an earlier lease: {places}")
        return {
            **incarnation.evidence,
            "agent_version": attested.agent_version,
            "boot_id": attested.boot_id,
            "canary_found": "none",
        }

    async def _enrol(self, machine: Machine, address: GuestAddress, authority: Authority) -> Enrolment:
        return await self._enroller.enrol(
            address,
            authority,
            machine.machine_id,
            lease_id=machine.next_lease_id,
            epoch=machine.epoch + 1,
            lifetime_s=CERTIFICATE_LIFETIME_S,
            timeout_s=ENROL_TIMEOUT_S,
        )

    async def _endpoint(self, machine: Machine, enrolment: Enrolment, authority: Authority) -> GuestEndpoint:
        """Where the agent is, asked of the hypervisor itself, and what proves it."""
        proven = await self._hypervisor.address(machine.machine_id)
        return GuestEndpoint(
            scheme="tcp",
            host=proven.host,
            port=proven.port,
            server_identity=enrolment.server_identity,
            ca_pem=authority.ca_cert_pem,
        )

    async def _current(self, item: WorkItem, context: WorkContext) -> Machine | None:
        """The machine, if the work still makes sense: same epoch, and the state that the work is for."""
        machine = await context.store.load(Machine, Machine.stream(item.payload["machine_id"]))
        if machine is None:
            raise TransientError(f"no machine {item.payload['machine_id']}")
        if machine.epoch != item.payload["epoch"] or work_for(machine) != item.kind:
            log.info("work_was_out_of_date", state=machine.state, epoch=machine.epoch)
            return None
        return machine

    async def _fail(
        self, item: WorkItem, context: WorkContext, error: Exception, happen: Callable[[Machine, Unit], None]
    ) -> None:
        """The failure is recorded, unless nobody can be asked: then it is nobody's failure, and tried again later.

        A file that is not the one that was digested is no matter for another attempt. A fence that stands higher than
        the record is one for the reconciler.
        """
        cause: QuarantineCause = "digest_mismatch"
        if isinstance(error, TransientError) and await self._is_away():
            await self._begin_again(item, context)
        elif isinstance(error, StaleEpoch):
            log.warning("fence_stands_higher", machine=item.payload["machine_id"], reason=str(error))
        elif isinstance(error, DigestMismatch):
            await self._record(item, context, lambda fresh, unit: fresh.quarantine(str(error), unit.at, cause))
        else:
            await self._record(item, context, happen)

    async def _begin_again(self, item: WorkItem, context: WorkContext) -> None:
        """The same work is to be done a little later, as if it had not been tried."""

        async def decide(unit: Unit) -> None:
            machine = await self._current(item, context)
            if machine is not None:
                app.begin_work(unit, machine, after_s=AWAY_RETRY_S)

        await context.commit(decide, finish=True)

    async def _is_away(self) -> bool:
        try:
            await self._hypervisor.observe()
            await self._network.observe()
        except (HypervisorUnavailable, NetworkUnavailable):
            return True
        return False

    async def _decide(self, item: WorkItem, context: WorkContext, decide: Callable[[Machine, Unit], None]) -> None:
        """The work is over with what is decided about the machine as it is now."""

        async def fill(unit: Unit) -> None:
            machine = await context.store.load(Machine, Machine.stream(item.payload["machine_id"]))
            if machine is not None:
                decide(machine, unit)

        await context.commit(fill, finish=True)

    async def _record(self, item: WorkItem, context: WorkContext, happen: Callable[[Machine, Unit], None]) -> None:
        """The outcome is recorded on the machine as it is now, if the work still makes sense."""

        async def decide(unit: Unit) -> None:
            machine = await self._current(item, context)
            if machine is not None:
                happen(machine, unit)
                app.record(unit, machine)

        await context.commit(decide, finish=True)
