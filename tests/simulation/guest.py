"""The agent inside a simulated incarnation: runs its lease's sample, keeps a journal, and is lost in every way.

Each call carries the lease it believes in; the agent's certificate says which lease it serves. What it hands out is
marked with the incarnation and the sample that really ran, so that a result under another task would show.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, TypeVar

from contracts.machines import GuestEndpoint, LeaseRef
from services.plugins.ports_guest import (
    Collected,
    CollectedFile,
    EvidenceFrame,
    Flushed,
    GuestEvent,
    GuestHello,
    GuestLied,
    GuestRefused,
    GuestUnreachable,
    Heartbeat,
    Launched,
    PluginEnding,
    PluginLimits,
    PluginPiece,
    ProcessExited,
    ProcessStarted,
    RecordSealed,
    SourceSummary,
    TreeEmpty,
)
from tests.simulation.loop import PROCESS
from tests.simulation.world import Life, SimWorld

HEARTBEAT_S = 1.0
SILENCE_S = 20.0
PLUGIN_VERSION = "1.2.0"
T = TypeVar("T")


class SimGuest:
    """What lives inside of one incarnation."""

    def __init__(self, world: SimWorld, life: Life) -> None:
        self.world = world
        self.life = life
        self.journal: list[GuestEvent] = []
        self.waiters: list[asyncio.Future[None]] = []
        self.launched: Launched | None = None
        self.bundled: set[str] = set()
        self.task_id = ""
        self.is_sealed = False
        self.is_hanging = False
        self.is_lying = False
        self.highest_term = 0

    def changed(self) -> None:
        """Whoever watches looks again."""
        waiters, self.waiters = self.waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)

    def end(self) -> None:
        """The incarnation is gone."""
        self.changed()

    def say(self, kind: Any, /, **details: Any) -> None:
        """One more entry of the journal."""
        self.journal.append(kind(position=len(self.journal) + 1, **details))
        self.changed()

    def act(self, term: int) -> None:
        """A driver does something here: none may that was replaced by a later one."""
        if term < self.highest_term:
            self.world.on_wrong(f"term {term} acted on {self.life.machine_id} after term {self.highest_term}")
        self.highest_term = max(self.highest_term, term)

    def launch(self, task_id: str, lease_id: str) -> Launched:
        """The sample runs; this is the moment that taints the incarnation."""
        life, world = self.life, self.world
        life.samples.append((task_id, lease_id))
        world.on_launch(life, task_id, lease_id)
        if self.launched is None:
            self.task_id = task_id
            self.launched = Launched(pid=100, started_at_ns=1, exec_error="")
            self.say(ProcessStarted, pid=100, is_first=True)
            self.say(EvidenceFrame, source="syscalls", sequence=1, content=mark(life, self), is_truncated=False)
            for name in sorted(self.bundled):
                self.say(
                    PluginPiece,
                    plugin=name,
                    sequence=0,
                    name="transient/000",
                    kind="file",
                    media_type="application/octet-stream",
                    content=mark(life, self),
                    is_last=True,
                )
            run_s = world.rng.random() * 20
            loop = world.loop
            loop.world.context.copy().run(loop.call_at, loop.now + run_s, self._exit)
        return self.launched

    def _exit(self) -> None:
        if not self.life.is_gone and not self.is_sealed:
            self.say(ProcessExited, pid=100, is_first=True, exit_code=0, signal=None)
            self.say(TreeEmpty)

    def sealed(self) -> "SimGuest":
        """The agent, whose record is complete."""
        if not self.is_sealed:
            self.is_sealed = True
            self.say(RecordSealed)
        return self


def mark(life: Life, guest: SimGuest) -> bytes:
    """What this incarnation's evidence looks like."""
    return f"evidence of {guest.task_id} on {life.machine_id} life {life.number}\n".encode()


def _itself(guest: SimGuest) -> SimGuest:
    """A request that only asks."""
    return guest


class SimConnector:
    """Opens sessions with agents."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world

    async def connect(self, endpoint: GuestEndpoint, lease: LeaseRef, *, timeout_s: float) -> "SimSession":
        """A session with the agent that proved the endpoint's identity. Raises GuestUnreachable, GuestRefused."""
        self.world.on_act(PROCESS.get(), lease.machine_id)
        await asyncio.sleep(self.world.rng.random() * 0.1)
        life = self.world.at_port(endpoint.port)
        if life is None or life.is_mute:
            await asyncio.sleep(self.world.rng.random() * timeout_s)
            raise GuestUnreachable("nobody answers")
        self.prove(life, endpoint)
        if life.guest is None:
            life.guest = SimGuest(self.world, life)
        return SimSession(self.world, life, lease)

    def prove(self, life: Life, endpoint: GuestEndpoint) -> None:
        """What answers holds the lease's certificate. Raises GuestRefused."""
        if life.identity != endpoint.server_identity:
            self.world.counts["stale_endpoint_refused"] += 1
            raise GuestRefused("what answers is not the enrolled agent")


class SimSession:
    """The agent of one lease."""

    def __init__(self, world: SimWorld, life: Life, lease: LeaseRef) -> None:
        self.world = world
        self.life = life
        self.lease = lease
        self.task_id = ""

    @property
    def frames_refused(self) -> int:
        """None are."""
        return 0

    async def hello(self) -> GuestHello:
        """Who answers."""
        await self._call(_itself)
        return GuestHello("1.0.0", "linux", f"boot-{self.life.number}", ("plugins",), {"syscalls": PLUGIN_VERSION})

    async def set_clock(self) -> None:
        """Set."""
        await self._call(_itself)

    async def put(self, source: Path, name: str) -> str:  # noqa: ARG002 - the port's shape
        """The sample stands in the guest: its name says whose it is."""
        await self._call(_itself)
        self.task_id = name
        return f"/sample/{name}"

    async def init_plugin(self, name: str, config: dict[str, object]) -> str:  # noqa: ARG002 - the port's shape
        """Ready."""
        await self._call(_itself)
        return PLUGIN_VERSION

    async def start_plugin(self, name: str, bundle: Path, config: dict[str, object], bounds: PluginLimits) -> None:  # noqa: ARG002
        """Ready."""
        await self._call(lambda guest: guest.bundled.add(name))

    async def tell(self, plugin: str, message_id: str, fact: str, content: dict[str, object]) -> bool:  # noqa: ARG002
        """Told."""
        await self._call(_itself)
        return True

    async def end_plugin(self, name: str) -> PluginEnding:  # noqa: ARG002 - the port's shape
        """Gone, with what it said."""
        guest = await self._call(_itself)
        await self._back()
        return PluginEnding("completed", "", 1 if guest.launched else 0, b"", 1)

    async def arm(self) -> None:
        """Armed."""
        await self._call(_itself)

    async def launch(
        self,
        argv: tuple[str, ...],
        *,
        environment: dict[str, str] | None = None,  # noqa: ARG002 - the port's shape
        cwd: str = "",  # noqa: ARG002
        user: str = "",  # noqa: ARG002
        has_network: bool = False,  # noqa: ARG002
    ) -> Launched:
        """The sample runs."""
        name = next(word.rpartition("/")[2] for word in argv if word.startswith("/sample/"))
        launched = await self._call(lambda guest: guest.launch(name, self.lease.lease_id))
        await self._back()
        return launched

    async def watch(self, *, after_position: int = 0) -> AsyncGenerator[GuestEvent, None]:
        """The journal from there on, with signs of life. Raises GuestUnreachable when nothing comes."""
        guest = await self._call(_itself)
        position, beat, silent_s = after_position, 0, 0.0
        while True:
            if self.life.is_gone:
                raise GuestUnreachable("the stream broke")
            if self.life.is_running and not guest.is_hanging:
                silent_s = 0.0
                for event in guest.journal[position:]:
                    position = event.position  # type: ignore[union-attr]
                    if guest.is_lying:
                        self.world.counts["guest_lied"] += 1
                        raise GuestLied("a frame breaks its bounds")
                    yield event
                    if isinstance(event, RecordSealed):
                        return
                beat += 1
                yield Heartbeat(beat)
            elif silent_s >= SILENCE_S:
                raise GuestUnreachable("no sign of life")
            future = asyncio.get_running_loop().create_future()
            guest.waiters.append(future)
            try:
                async with asyncio.timeout(HEARTBEAT_S):  # `wait_for` of Python 3.11 may forget a cancellation
                    await future
            except TimeoutError:
                silent_s += HEARTBEAT_S

    async def flush(self) -> Flushed:
        """The record is complete."""
        guest = await self._call(SimGuest.sealed)
        await self._back()
        content = mark(self.life, guest)
        return Flushed((SourceSummary("syscalls", 1, len(content), "0" * 64, is_truncated=False),), 3, 0)

    async def collect(self, into: Path, *, timeout_s: float) -> Collected:  # noqa: ARG002 - the port's shape
        """One file that the sample wrote."""
        guest = await self._call(_itself)
        if self.world.collect_max_s:
            self.world.counts["fault collection_slow"] += 1
            await asyncio.sleep(self.world.rng.random() * self.world.collect_max_s)
        path = into / "dropped"
        path.write_bytes(mark(self.life, guest))
        await self._back()
        return Collected((CollectedFile(path, "/tmp/dropped", "0" * 64, 1, is_deleted=False, is_truncated=False),), 0)

    async def shutdown_plugin(self, name: str) -> None:  # noqa: ARG002 - the port's shape
        """Gone."""
        await self._call(_itself)

    async def shutdown(self) -> None:
        """Gone."""
        await self._call(_itself)

    async def close(self) -> None:
        """Closed."""

    async def _call(self, act: Callable[[SimGuest], T]) -> T:
        """What the agent answers. Once sent, a request arrives, whatever became of who sent it.

        Raises GuestUnreachable, GuestRefused.
        """
        world, process = self.world, PROCESS.get()
        world.on_act(process, self.life.machine_id)
        await asyncio.sleep(world.rng.random() * 0.02)
        self._check_alive()
        if self.life.guest.is_hanging:
            await asyncio.sleep(SILENCE_S)
            raise GuestUnreachable("the agent does not answer")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            is_late = process.is_dead or process.is_paused or answer.done()
            world.counts["guest_call_finished_late"] += is_late
            try:
                done = act(self._admitted())
            except (GuestUnreachable, GuestRefused) as error:
                if not answer.done() and not process.is_dead:
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(done)

        loop = world.loop
        at = loop.now + world.on_request(process, self.life.machine_id)
        loop.world.context.copy().run(loop.call_at, at, arrive)
        return await answer

    def _admitted(self) -> SimGuest:
        """The agent, which serves this lease and no later driver of it. Raises GuestUnreachable, GuestRefused."""
        self._check_alive()
        self.check_lease()
        guest: SimGuest = self.life.guest
        guest.act(self.lease.term)
        return guest

    async def _back(self) -> None:
        """The reply arrived."""
        await asyncio.sleep(self.world.rng.random() * 0.02)
        self._check_alive()

    def _check_alive(self) -> None:
        if self.life.is_gone or not self.life.is_running:
            raise GuestUnreachable("the guest is gone")

    def refuse(self) -> None:
        """The agent says no. Raises GuestRefused."""
        self.world.counts["agent_refused_lease"] += 1
        raise GuestRefused("that lease is not served here, or by a later driver")

    def check_lease(self) -> None:
        """The agent serves the lease, and no later driver of it. Raises GuestRefused."""
        life = self.life
        if self.lease.lease_id != life.lease_id or self.lease.term < life.term:
            self.refuse()
        life.term = max(life.term, self.lease.term)
