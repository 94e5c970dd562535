"""Faults of servers, links, clocks and drivers while tasks are submitted: nothing is lost, everything comes to rest."""

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from deploy.local import ports
from tests.crash.client import Accepted
from tests.crash.proxy import Faults, Proxy, at_random
from tests.crash.runs import Arena, PromiseBroken
from tests.crash.servers import Servers

BETWEEN_TASKS_S = 0.7
AT_ONCE_MAX = 12
"""More would only queue: how long they take afterwards says how slow the machine is, not what the harm did."""
BROKER_LIVES_MAX_S = 12.0
"""A service is connected to a broker 5 s after it is back at the latest: some deaths come before, some amid work."""
BETWEEN_JUMPS_S = 2.5
JUMPS = ("+2h", "-2h", "+3d", "+0")
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
SETTLE_S = 3.0
WAIT_S = 30.0
POLL_S = 0.02


@dataclass
class Stream:
    """Submissions that keep coming while something is done."""

    accepted: list[Accepted]

    @property
    def tasks(self) -> list[str]:
        """Their tasks, as far as they were accepted."""
        return [one.task_id for one in self.accepted]


@asynccontextmanager
async def submitting(arena: Arena, name: str, every_s: float = BETWEEN_TASKS_S) -> AsyncIterator[Stream]:
    """One file after another is submitted for as long as the block lasts; each was accepted at the end of it.

    At most AT_ONCE_MAX are not over at any time.
    """
    stream = Stream([])
    sending: list[asyncio.Task[Accepted]] = []

    async def send() -> None:
        while True:
            accepted = [one.result().task_id for one in sending if one.done()]
            on_their_way = len(sending) - len(accepted)
            if on_their_way + await arena.record.not_over(accepted) < AT_ONCE_MAX:
                sending.extend(arena.send(1, name))
            await asyncio.sleep(every_s)

    sender = asyncio.create_task(send())
    try:
        yield stream
        sender.cancel()
        stream.accepted += await asyncio.gather(*sending)
    finally:
        sender.cancel()
        for task in sending:
            task.cancel()


async def through(arena: Arena, name: str, harm: Callable[[], Awaitable[None]]) -> Sequence[Accepted]:
    """The harm was done while files were submitted, and every promise was kept. Raises PromiseBroken."""
    async with submitting(arena, name) as stream:
        await harm()
    await arena.until_rest(stream.accepted, name)
    await arena.judge(stream.accepted, name)
    await arena.mend()
    return stream.accepted


async def broker_killed(arena: Arena, times: int, seed: int = 0) -> str:
    """RabbitMQ dies again and again."""
    servers, chance = Servers(arena.ground), random.Random(seed)  # noqa: S311 - when to kill, not a secret

    async def harm() -> None:
        for _ in range(times):
            await asyncio.sleep(chance.uniform(0.0, BROKER_LIVES_MAX_S))
            await servers.kill_broker()

    accepted = await through(arena, "broker-killed", harm)
    return f"broker killed {times} times, {ends(arena, accepted)}"


async def broker_wiped(arena: Arena) -> str:
    """RabbitMQ loses everything it had."""
    servers = Servers(arena.ground)

    async def harm() -> None:
        await asyncio.sleep(1.5)
        arena.record.forget_audit()
        await servers.wipe_broker()

    accepted = await through(arena, "broker-wiped", harm)
    return f"broker wiped once, {ends(arena, accepted)}"


async def database_killed(arena: Arena, times: int, seed: int = 0) -> str:
    """PostgreSQL dies again and again."""
    servers, chance = Servers(arena.ground), random.Random(seed)  # noqa: S311 - when to kill, not a secret

    async def harm() -> None:
        for _ in range(times):
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            await servers.kill_database()

    accepted = await through(arena, "database-killed", harm)
    return f"database killed {times} times, {ends(arena, accepted)}"


async def database_slow(arena: Arena, seconds: int, seed: int = 0) -> str:
    """Every statement of every service takes up to half a second longer."""
    chance = random.Random(seed)  # noqa: S311 - how long to wait, not a secret
    faults = Faults(delay_s=lambda: chance.choice((0.0, 0.0, 0.02, 0.05, 0.5)))
    accepted = await _behind(arena, "database-slow", faults, seconds)
    return f"database slow for {seconds} s, {ends(arena, accepted)}"


async def link_cut_after_commit(arena: Arena, seconds: int, seed: int = 0) -> str:
    """The server commits, and the link to it is gone before the answer comes."""
    faults = Faults(cut=at_random(seed, 0.08))
    accepted = await _behind(arena, "link-cut", faults, seconds)
    if not faults.cuts:
        raise PromiseBroken("no link was ever cut: this proves nothing")
    return f"{faults.cuts} links cut after a commit, {ends(arena, accepted)}"


async def database_full(arena: Arena, seconds: int) -> str:
    """The disk under the database is full for a while: what is accepted then is durable, or nothing is."""
    servers = Servers(arena.ground)

    async def harm() -> None:
        async with servers.full_database():
            await asyncio.sleep(seconds)

    accepted = await through(arena, "database-full", harm)
    return f"database without space for {seconds} s, {ends(arena, accepted)}"


async def database_restored(arena: Arena, tasks: int) -> str:
    """The database is put back to an older state, under services that run on: no epoch ever goes back."""
    servers = Servers(arena.ground)
    backup = arena.ground.state.root / "backup"
    await arena.until_rest([], "before the backup")
    await arena.judge([], "before the backup")  # which reads all that the copy will hold
    saved = arena.record.epochs()
    await servers.back_up(backup)
    forgotten = list(await asyncio.gather(*arena.send(tasks, "restored-before")))
    await arena.until_rest(forgotten, "before the restore")
    await arena.judge(forgotten, "before the restore")
    highest = arena.record.epochs()
    await servers.restore(backup)
    shutil.rmtree(backup)
    await arena.begin_again()
    accepted = list(await asyncio.gather(*arena.send(tasks, "restored-after")))
    await arena.until_rest(accepted, "after the restore")
    await arena.judge(accepted, "after the restore")
    used = arena.record.epochs()
    moved = [name for name, epoch in highest.items() if epoch > saved[name]]
    fallen = [name for name, epoch in highest.items() if used[name] < epoch + (name in moved)]
    if fallen or not moved:
        raise PromiseBroken(f"epochs went back: {fallen}, {highest} before and {used} after")
    return (
        f"database restored; epochs {sum(highest.values())} before, {sum(used.values())} after, {ends(arena, accepted)}"
    )


async def driver_stopped(arena: Arena, times: int) -> str:
    """A driver stands still past its lease while another goes on, then wakes: it has no effect."""
    accepted = [await _driver_stopped_once(arena) for _ in range(times)]
    arena.expect_completed(accepted, "driver-stopped")
    return f"driver stopped and continued {times} times, {ends(arena, accepted)}"


async def _driver_stopped_once(arena: Arena) -> Accepted:
    ground = arena.ground
    (sending,) = arena.send(1, "driver-stopped")
    accepted = await sending
    await until("the guest stage runs", lambda: arena.record.is_granted(accepted.task_id))
    ground.signal("plugins", signal.SIGSTOP)
    try:
        port = ports.choose(ground.state, "plugins-2", avoid=set())
        await asyncio.to_thread(ground.start_replica, "plugins", port)
        await arena.until_rest([accepted], "while a driver stands still")
    finally:
        ground.signal("plugins", signal.SIGCONT)
    await asyncio.sleep(SETTLE_S)  # what the woken one still tries, it tries now
    await arena.judge([accepted], "after a driver woke")
    await asyncio.to_thread(ground.bed.stop_other, "plugins-2")
    (sending,) = arena.send(1, "driver-goes-on")
    after = await sending
    await arena.until_rest([after], "with the driver that woke")
    await arena.judge([after], "with the driver that woke")
    return accepted


async def clock_jumped(arena: Arena, service: str, times: int = 1) -> str:
    """The wall clock of one service jumps by hours, forth and back."""
    clock = arena.ground.state.run / "clock"
    clock.write_text("+0\n", encoding="ascii")
    clock.chmod(0o644)
    environment = {
        "LD_PRELOAD": FAKETIME,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    await asyncio.to_thread(arena.ground.bed.stop, service)
    await asyncio.to_thread(arena.ground.start, service, environment)
    await asyncio.to_thread(arena.ground.bed.start, service)  # ready: a clock that it starts with is believed

    async def harm() -> None:
        for jump in JUMPS * times:
            await asyncio.sleep(BETWEEN_JUMPS_S)
            clock.write_text(f"{jump}\n", encoding="ascii")
        await asyncio.sleep(BETWEEN_JUMPS_S)

    try:
        accepted = await through(arena, f"clock-of-{service}", harm)
        arena.expect_completed(accepted, f"clock-of-{service}")
    finally:
        await asyncio.to_thread(arena.ground.bed.stop, service)
        await asyncio.to_thread(arena.ground.bed.start, service)
    return f"clock of {service} jumped {times * len(JUMPS)} times by hours, {ends(arena, accepted)}"


async def until(what: str, is_true: Callable[[], Awaitable[bool]]) -> None:
    """It is true. Raises PromiseBroken."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not await is_true():  # noqa: ASYNC110 - it watches other processes
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise PromiseBroken(f"waited {WAIT_S:.0f} s in vain until {what}") from None


async def _behind(arena: Arena, name: str, faults: Faults, seconds: int) -> Sequence[Accepted]:
    """Every service works behind a link with those faults for a while."""

    async def harm() -> None:
        await asyncio.sleep(seconds)
        faults.end()

    async with Proxy(arena.ground.bed.here.ports["postgres"], faults).running() as proxy:
        aside = arena.ground.database_at(proxy.port)
        await asyncio.to_thread(aside.__enter__)
        try:
            return await through(arena, name, harm)
        finally:
            await asyncio.to_thread(aside.__exit__, None, None, None)


def ends(arena: Arena, accepted: Sequence[Accepted]) -> str:
    """How the tasks ended, and how often their submissions had to be sent again."""
    outcomes = [arena.record.outcome(one.task_id) for one in accepted]
    counted = ", ".join(f"{outcomes.count(state)} {state}" for state in sorted(set(outcomes)))
    return f"{len(accepted)} tasks: {counted}; sent again {sum(one.tries - 1 for one in accepted)} times"
