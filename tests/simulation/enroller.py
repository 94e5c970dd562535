"""The enroller's port: it speaks to the agents of machines that are not leased yet."""

import asyncio

from services.machines.errors import GuestRefused, GuestUnreachable
from services.machines.ports import Attestation, Authority, Enrolment, GuestAddress
from tests.simulation.world import Life, SimWorld


class SimEnroller:
    """Speaks to agents that are not leased yet."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world

    def create_authority(self, machine_id: str) -> Authority:
        """A fresh authority."""
        number = self.world.next_authority()
        return Authority(f"ca {machine_id} {number}", f"key {number}", f"enrolment {number}".encode())

    async def attest(
        self, address: GuestAddress, authority: Authority, machine_id: str, *, timeout_s: float
    ) -> Attestation:
        """What the agent says of itself. Raises GuestUnreachable, GuestRefused."""
        life = await self._reached(address, authority, machine_id, timeout_s)
        return Attestation("1.0.0", f"boot-{life.number}", life.identity is None, (), {})

    async def enrol(
        self,
        address: GuestAddress,
        authority: Authority,
        machine_id: str,
        *,
        lease_id: str,
        epoch: int,
        lifetime_s: int,  # noqa: ARG002 - the port's shape
        timeout_s: float,
    ) -> Enrolment:
        """The agent serves only that lease."""
        life = await self._reached(address, authority, machine_id, timeout_s)
        if self.world.thief_rate and self.world.rng.random() < self.world.thief_rate:
            self.world.counts["fault token_stolen"] += 1
            life.identity = "somebody else"
        if life.identity is not None:
            self.world.counts["second_enrolment_refused"] += 1
            raise GuestRefused("the agent is enrolled already")
        life.identity = f"{lease_id}.{machine_id}"
        life.lease_id, life.lease_epoch = lease_id, epoch
        return Enrolment(life.identity, f"instance-{life.number}")

    async def _reached(self, address: GuestAddress, authority: Authority, machine_id: str, timeout_s: float) -> Life:
        world = self.world
        await asyncio.sleep(world.rng.random() * 0.2)
        life = world.at_port(address.port)
        if life is None or life.is_mute or life.machine_id != machine_id:
            await asyncio.sleep(timeout_s)
            world.counts["guest_unreachable"] += 1
            world.waited_until = world.loop.now
            raise GuestUnreachable(f"no agent of {machine_id} answered")
        if life.authority != authority.enrolment:
            world.counts["impostor_refused"] += 1
            raise GuestRefused("what answered does not hold the enrolment key")
        return life
