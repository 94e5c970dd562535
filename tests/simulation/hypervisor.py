"""The hypervisor's port as one process of the machines service holds it.

A call is a chain of steps; the one under way when its caller dies may still finish, later, and without the machine's
lock, as a request to libvirt does.
"""

import asyncio
from collections.abc import Awaitable, Callable

from services.machines.domain.fence import UNTOUCHED, Claim
from services.machines.domain.spec import MachineSpec
from services.machines.errors import (
    HypervisorRefused,
    HypervisorUnavailable,
    StaleClaim,
    StaleEpoch,
)
from services.machines.ports import (
    Departure,
    DomainSeen,
    GuestAddress,
    Incarnation,
    Provisioned,
)
from tests.simulation.loop import Process
from tests.simulation.world import Host, SimWorld

CALL_TIMEOUT_S = 30.0


class SimHypervisor:
    """The port as one process of the machines service holds it."""

    def __init__(self, world: SimWorld, process: Process) -> None:
        self.world = world
        self.process = process
        process.on_death.append(self._release_locks)

    async def image_identity(self, spec: MachineSpec) -> str:
        """The digest of the built image."""
        await self._pause()
        if self.world.is_image_missing:
            raise HypervisorRefused(f"there is no image {spec.image}")
        return f"{self.world.image}:{spec.image}"

    async def provision(
        self,
        spec: MachineSpec,
        *,
        epoch: int,
        enrolment: bytes,
        agent_waits: Callable[[GuestAddress], Awaitable[None]],
        claim: Claim | None = None,
    ) -> Provisioned:
        """A warm snapshot stands."""
        host = self.world.host(spec.machine_id)

        def boot() -> None:
            self.check_fence(host, epoch, claim)
            self.world.end(host)
            host.overlays.clear()
            host.warm_epoch = None
            host.warm_authority = enrolment
            self.world.born(host, epoch)

        await self._act(spec.machine_id, epoch, claim, (boot,))
        await agent_waits(GuestAddress("127.0.0.1", host.port))

        def freeze() -> None:
            life = host.life
            if life is None or life.epoch != epoch:
                raise HypervisorUnavailable(f"the domain of {spec.machine_id} is gone")
            self.world.end(host)
            host.warm_epoch = epoch

        await self._act(spec.machine_id, epoch, claim, (freeze,))
        return Provisioned("tcg", {"image": self.world.image})

    async def restore(self, spec: MachineSpec, *, epoch: int, claim: Claim | None = None) -> Incarnation:
        """A fresh process on a fresh overlay runs."""
        host = self.world.host(spec.machine_id)

        def start() -> None:
            if host.warm_epoch is None:
                raise HypervisorRefused(f"{spec.machine_id} has no warm snapshot")
            self._start_hook(host, epoch, claim)
            self.world.born(host, epoch)

        await self._act(spec.machine_id, epoch, claim, (lambda: self._sweep(host), start))
        return Incarnation(GuestAddress("127.0.0.1", host.port), {"overlay": str(epoch)})

    async def address(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> GuestAddress:
        """Where the live domain's agent is."""
        await self._pause()
        host = self.world.host(machine_id)
        self.check_fence(host, epoch, claim)
        if host.life is None:
            raise HypervisorUnavailable(f"{machine_id} has no domain")
        return GuestAddress("127.0.0.1", host.port)

    async def pause(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """It stands still."""
        await self._act(machine_id, epoch, claim, (lambda: self._switch(machine_id, is_running=False),))

    async def departures(self, machine_id: str, *, epoch: int) -> list[Departure]:
        """Whether what stands there is the incarnation of that epoch."""
        await self._act(machine_id, epoch, None, (lambda: None,))
        life = self.world.host(machine_id).life
        is_it = life is not None and life.epoch == epoch and not life.is_running
        return [] if is_it else [Departure("domain", "another incarnation stands there, or none")]

    async def resume(self, machine_id: str, *, epoch: int, grant: str, claim: Claim | None = None) -> None:
        """It runs, for that grant."""
        await self._act(machine_id, epoch, claim, (lambda: self._let_run(machine_id, grant),))

    async def destroy(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """Nothing of it is left."""
        host = self.world.host(machine_id)

        def sweep() -> None:
            self.world.end(host)
            host.overlays.clear()

        await self._act(machine_id, epoch, claim, (sweep,))

    async def erase(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """Nothing of it is left, nor a snapshot that anything could be restored from."""
        host = self.world.host(machine_id)

        def erase() -> None:
            self.world.end(host)
            host.overlays.clear()
            host.warm_epoch = None

        await self._act(machine_id, epoch, claim, (erase,))

    async def halt(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """No process of it is left; its overlay stays."""
        host = self.world.host(machine_id)
        await self._act(machine_id, epoch, claim, (lambda: self.world.end(host),))

    async def fences(self) -> dict[str, int]:
        """How high each fence stands. They are files: libvirt is not asked."""
        await asyncio.sleep(self.world.rng.random() * 0.05)
        return {name: host.fence.epoch for name, host in self.world.hosts.items() if host.fence != UNTOUCHED}

    async def changed(self) -> None:
        """Nothing tells: the interval has to do."""
        await asyncio.Event().wait()

    async def observe(self) -> list[DomainSeen]:
        """Every domain there is."""
        await self._pause()
        return [
            DomainSeen(
                f"malbox-{host.machine_id}",
                host.machine_id,
                host.life.epoch,
                "running" if host.life.is_running else "paused",
                GuestAddress("127.0.0.1", host.port),
            )
            for host in self.world.hosts.values()
            if host.life is not None
        ]

    async def discard(self, name: str) -> None:
        """No such domain."""
        await self._pause()
        host = self.world.hosts.get(name.removeprefix("malbox-"))
        if host is not None:
            self.world.end(host)

    async def close(self) -> None:
        """Nothing to close."""

    def _sweep(self, host: Host) -> None:
        """Nothing of an older incarnation is left."""
        self.world.end(host)
        host.overlays.clear()

    def _start_hook(self, host: Host, epoch: int, claim: Claim | None) -> None:
        """A second domain of one UUID is refused, and one of an epoch or of a claim that is over."""
        if host.life is not None:
            self.world.counts["second_domain_refused"] += 1
            raise HypervisorRefused(f"domain {host.machine_id} exists")
        self.check_fence(host, epoch, claim)

    def _let_run(self, machine_id: str, grant: str) -> None:
        life = self.world.host(machine_id).life
        if life is not None and life.resumed_for not in (None, grant):
            self.world.counts["second_grant_refused"] += 1
            raise HypervisorRefused(f"{machine_id} ran before, for another grant")
        self._switch(machine_id, is_running=True)
        if life is not None:
            life.resumed_for = grant

    def _switch(self, machine_id: str, *, is_running: bool) -> None:
        host = self.world.host(machine_id)
        if host.life is None:
            raise HypervisorUnavailable(f"{machine_id} has no domain")
        if is_running and host.life.number != host.standing:
            self.world.counts["changed_machine_refused"] += 1
            raise HypervisorRefused(f"what stands there as {machine_id} is not what was verified")
        host.standing = host.standing if is_running else host.life.number
        host.life.is_running = is_running
        if host.life.guest is not None:
            host.life.guest.changed()

    def check_fence(self, host: Host, epoch: int, claim: Claim | None) -> None:
        """Nothing acted for a later epoch, nor under a later claim of this one. Raises StaleEpoch, StaleClaim."""
        try:
            host.fence.refuse_older(host.machine_id, epoch, claim)
        except StaleEpoch as refusal:
            self.world.counts["claim_refusal" if isinstance(refusal, StaleClaim) else "fence_refusal"] += 1
            raise

    async def _pause(self) -> None:
        world = self.world
        draw = world.rng.random()
        await asyncio.sleep(draw * 0.05)
        if world.is_down:
            world.counts["hypervisor_unreachable"] += 1
            raise HypervisorUnavailable("libvirt cannot be reached")
        if world.failure_rate and world.rng.random() < world.failure_rate:
            world.counts["hypervisor_failure"] += 1
            raise HypervisorUnavailable("libvirt: internal error")
        if world.slow_rate and world.rng.random() < world.slow_rate:
            world.counts["hypervisor_slow"] += 1
            await asyncio.sleep(world.rng.random() * 2 * CALL_TIMEOUT_S)

    async def _act(
        self, machine_id: str, epoch: int, claim: Claim | None, steps: tuple[Callable[[], None], ...]
    ) -> None:
        """The steps are done under the machine's lock, behind its fence. Raises StaleEpoch, StaleClaim."""
        host = self.world.host(machine_id)
        self.world.on_act(self.process, machine_id)
        await asyncio.sleep(0)
        self.check_fence(host, epoch, claim)
        host.fence = host.fence.raised(epoch, claim)
        host.highest = host.highest.raised(epoch, claim)
        await self._locked(host)
        token = host.lock
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                self.check_fence(host, epoch, claim)
                self._judge(host, epoch, claim)
                for step in steps:
                    await self._request(host, token, step)
        except TimeoutError as error:
            self.world.counts["hypervisor_timeout"] += 1
            raise HypervisorUnavailable("libvirt did not answer in time") from error
        finally:
            if host.lock is token:
                host.lock = None

    def _judge(self, host: Host, epoch: int, claim: Claim | None) -> None:
        """Whoever acts now is the latest who ever asked: the rule once more, by what the fence should know."""
        try:
            host.highest.refuse_older(host.machine_id, epoch, claim)
        except StaleEpoch as wrong:
            self.world.on_wrong(f"{host.machine_id} was acted on: {wrong}")

    async def _locked(self, host: Host) -> None:
        for _ in range(60):
            if host.lock is None:
                host.lock = (self.process, object())
                return
            self.world.counts["machine_lock_waited"] += 1
            await asyncio.sleep(0.5)
        raise HypervisorUnavailable(f"{host.machine_id} is being acted on")

    async def _request(self, host: Host, token: object, step: Callable[[], None]) -> None:
        """One request to libvirt: sent, done some time later, answered. It is done even if nobody waits any more."""
        await self._pause()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done() -> None:
            is_late = self.process.is_dead or host.lock is not token
            if is_late:
                if self.world.rng.random() > self.world.late_rate:
                    return
                self.world.counts["call_finished_late"] += 1
            try:
                step()
                host.is_disturbed |= is_late  # what a late call starts, nobody verified
            except Exception as error:  # noqa: BLE001 - it is the caller's
                if not answer.done() and not is_late:
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(None)

        loop = self.world.loop
        delay_s = self.world.rng.random() * 0.3
        if self.world.slow_rate and self.world.rng.random() < self.world.slow_rate:
            delay_s = self.world.rng.random() * 2 * CALL_TIMEOUT_S
        loop.world.context.copy().run(loop.call_at, loop.now + delay_s, done)
        await answer

    def _release_locks(self) -> None:
        """The kernel drops the locks of a dead process."""
        for host in self.world.hosts.values():
            if isinstance(host.lock, tuple) and host.lock[0] is self.process:
                host.lock = None
