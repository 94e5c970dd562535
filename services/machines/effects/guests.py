"""The agent of a machine that work acts on: what it proves, which lease it is to serve, and where it is."""

from contracts.machines import GuestEndpoint
from services.machines.effects.outcomes import Charge
from services.machines.errors import GuestMute, GuestRefused, GuestUnreachable
from services.machines.policy import EVIDENCE_MAX_AGE_S, LEASE_MAX_S
from services.machines.ports import Authority, Enrolment, GuestAddress, GuestEnroller, Hypervisor, Incarnation

AGENT_BOOT_TIMEOUT_S = 180.0
AGENT_RESTORE_TIMEOUT_S = 20.0
ENROL_TIMEOUT_S = 15.0
CERTIFICATE_LIFETIME_S = EVIDENCE_MAX_AGE_S + LEASE_MAX_S


class Guests:
    """Speaks to agents that are not leased yet."""

    def __init__(self, hypervisor: Hypervisor, enroller: GuestEnroller) -> None:
        self._hypervisor = hypervisor
        self._enroller = enroller

    def create_authority(self, on: Charge) -> Authority:
        """A fresh one, for the machine's next warm snapshot."""
        return self._enroller.create_authority(on.machine_id)

    async def wait_for(self, on: Charge, address: GuestAddress, authority: Authority) -> None:
        """A guest that boots has an agent that answers. Raises GuestMute: another boot of it would be as silent."""
        try:
            await self._enroller.attest(address, authority, on.machine_id, timeout_s=AGENT_BOOT_TIMEOUT_S)
        except GuestUnreachable as error:
            raise GuestMute(str(error)) from error

    async def evidence(self, on: Charge, incarnation: Incarnation, authority: Authority) -> dict[str, str]:
        """What shows that the restored agent is fresh. Raises GuestRefused."""
        attested = await self._enroller.attest(
            incarnation.address, authority, on.machine_id, timeout_s=AGENT_RESTORE_TIMEOUT_S
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

    async def enrol(self, on: Charge, authority: Authority) -> Enrolment:
        """The agent serves the next lease and no other. Whoever was overtaken finds no address to ask."""
        return await self._enroller.enrol(
            await self._hypervisor.address(on.machine_id, epoch=on.epoch, claim=on.claim),
            authority,
            on.machine_id,
            lease_id=on.machine.next_lease_id,
            epoch=on.epoch + 1,
            lifetime_s=CERTIFICATE_LIFETIME_S,
            timeout_s=ENROL_TIMEOUT_S,
        )

    async def endpoint(self, on: Charge, enrolment: Enrolment, authority: Authority) -> GuestEndpoint:
        """Where the agent is, asked of the hypervisor itself, and what proves it."""
        proven = await self._hypervisor.address(on.machine_id, epoch=on.epoch, claim=on.claim)
        return GuestEndpoint(
            scheme="tcp",
            host=proven.host,
            port=proven.port,
            server_identity=enrolment.server_identity,
            ca_pem=authority.ca_cert_pem,
        )
