"""The machines service dies wherever it changes something of a real machine; the next process goes on from there.

    python -m tests.prove.deaths [--nth N] [--only PATTERN]

Each point is armed for the first time that it is come to, then the second, and so on until what is done (a whole
analysis, or a machine built anew) goes by without a death. Every analysis has to complete, every machine to be ready
again, and nothing may be left that is nobody's.
"""

import argparse
import asyncio
import contextlib
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deploy.local import processes
from deploy.local.processes import Identity
from deploy.local.services import ServiceProcess
from services.chassis.crash_points import VARIABLE, Point
from tests.bench.wire import Refused
from tests.prove import leases
from tests.prove.ground import LEASE_TIMEOUT_S, LOOK_S, Ground
from tests.prove.private import on_private_ground
from tests.prove.report import seconds, table, tell

SERVICE = "machines"
NTH_MAX = 20
ARMING_TRIES_MAX = 5
REST_MAX_S = 120.0
"""P3: within this time after a death the task is over and the machine is ready or quarantined."""
HARMLESS = b"#!/bin/sh\nexit 0\n"
HOST = (Point.HOST_BEFORE, Point.HOST_AFTER)
FILES = (Point.FENCE_BEFORE, Point.FENCE_AFTER, Point.RECORD_BEFORE, Point.RECORD_AFTER)
SNAPSHOT = (Point.SNAPSHOT_BEFORE, Point.SNAPSHOT_AFTER)
AGENT = (Point.AGENT_BEFORE, Point.AGENT_AFTER)


@dataclass(frozen=True)
class Doing:
    """Something that is done to the machine, and the points that it comes to."""

    name: str
    points: tuple[Point, ...]
    prepare: Callable[[Ground], Awaitable[None]]
    do: Callable[[Ground], Awaitable[None]]


@dataclass(frozen=True)
class Survived:
    """One death, and how long it took until everything was at rest."""

    doing: str
    where: str
    recovery_s: float
    quarantined: tuple[str, ...]


async def prove(ground: Ground, doing: Doing, where: str) -> Survived | None:
    """What was done ended well though the service died there; None when it never came there. Raises AssertionError."""
    await doing.prepare(ground)
    mark, epoch = ground.ear.mark(), int((await ground.shown())["epoch"])
    process = await asyncio.to_thread(_armed, ground, where)
    done = asyncio.create_task(_done(doing, ground))
    try:
        died = await _died(process, done)
        began_s = time.monotonic()
        await asyncio.to_thread(_unarmed, ground)
        async with asyncio.timeout(REST_MAX_S):
            await done
            await _until_ready(ground)
    except TimeoutError as late:
        raise AssertionError(f"{doing.name}, {where}: after {REST_MAX_S:.0f} s there is no rest") from late
    finally:
        done.cancel()
        await asyncio.to_thread(_unarmed, ground)
    recovery_s = time.monotonic() - began_s
    assert await ground.epoch() > epoch, f"{doing.name}: the epoch did not rise after {where}"
    await ground.no_orphans()
    ends = [fact for fact in ground.ear.facts[mark:] if fact.name == "machine.quarantined"]
    return Survived(doing.name, where, recovery_s, tuple(str(end.data["reason"]) for end in ends)) if died else None


async def _done(doing: Doing, ground: Ground) -> None:
    """It is done, and shown so: facts are faster than the list of machines."""
    await doing.do(ground)
    await _until_ready(ground)


async def _until_ready(ground: Ground) -> None:
    state = "unknown"
    while state != "ready":  # bounded by whoever waits for it
        await asyncio.sleep(LOOK_S)
        with contextlib.suppress(Refused):  # nobody serves the list just now
            state = (await ground.shown())["state"]


async def _died(process: Identity, done: "asyncio.Task[None]") -> bool:
    """Whether the process ended before what is done did."""
    while process.is_running():
        if done.done():
            return False
        await asyncio.sleep(LOOK_S)
    return True


def _armed(ground: Ground, where: str) -> Identity:
    """The service runs as a process that dies there; whoever supervises it starts the next one without that."""
    service = _service(ground)
    for _ in range(ARMING_TRIES_MAX):  # a supervisor may be faster
        service.stop()
        process = service.start({VARIABLE: where})
        if f"{VARIABLE}={where}".encode() in _environment(process):
            return process
    raise AssertionError(f"{SERVICE} was started by somebody else {ARMING_TRIES_MAX} times")


def _unarmed(ground: Ground) -> None:
    """A process that dies nowhere runs: one that did not come to its point would die there later."""
    service = _service(ground)
    running = processes.started(ground.here.state, SERVICE)
    if running is not None and any(line.startswith(f"{VARIABLE}=".encode()) for line in _environment(running)):
        service.stop()
    service.start()


def _environment(process: Identity) -> list[bytes]:
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as stream:  # noqa: PTH123
        return stream.read().split(b"\0")
    return []


def _service(ground: Ground) -> ServiceProcess:
    return ServiceProcess(ground.here.state, SERVICE, ground.here.ports[SERVICE])


async def _nothing(_ground: Ground) -> None:
    """An analysis begins with a machine that is ready."""


async def _analysis(ground: Ground) -> None:
    await leases.analysed(ground, HARMLESS)


async def _quarantine(ground: Ground) -> None:
    mark = ground.ear.mark()
    await ground.told("quarantine", "the proof builds it anew")
    fact = await ground.ear.until(
        "the machine is quarantined",
        lambda fact: fact.is_of(ground.machine_id) and fact.name == "machine.quarantined",
        since=mark,
        timeout_s=LEASE_TIMEOUT_S,
    )
    await ground.shown(at_epoch=int(fact.data["epoch"]))


async def _build(ground: Ground) -> None:
    await ground.made_ready()


ANALYSIS = Doing("an analysis", (*HOST, *FILES, *AGENT), _nothing, _analysis)
BUILD = Doing("a machine built anew", (*HOST, *FILES, *SNAPSHOT, *AGENT), _quarantine, _build)


async def prove_all(ground: Ground, doings: Sequence[Doing], nth_max: int) -> list[Survived]:
    """A death each time that a point is come to, one after the other."""
    found: list[Survived] = []
    for doing in doings:
        for point in doing.points:
            for nth in range(1, nth_max + 1):
                survived = await prove(ground, doing, f"{point}:{nth}")
                if survived is None:
                    assert nth > 1, f"{doing.name} never comes to {point}"
                    break
                found.append(survived)
                tell(f"  {doing.name}, {survived.where}: at rest after {seconds(survived.recovery_s)}")
            else:
                assert nth_max < NTH_MAX, f"{doing.name} comes to {point} more than {NTH_MAX} times"
    return found


def said(found: Sequence[Survived]) -> str:
    """The deaths as a table."""
    rows = [(one.doing, one.where, seconds(one.recovery_s), "; ".join(one.quarantined) or "-") for one in found]
    slowest = max((one.recovery_s for one in found), default=0.0)
    quarantined = sum(len(one.quarantined) for one in found)
    return (
        table(("the machines service died in", "at", "at rest", "quarantined"), rows)
        + f"\n{len(found)} deaths around changes of a real machine, every analysis completed, every machine ready, "
        + f"{quarantined} quarantined on the way; slowest {slowest:.1f} s, {REST_MAX_S:.0f} s allowed"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Proves and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.deaths", description=__doc__)
    parser.add_argument("--nth", type=int, default=NTH_MAX, help="how often at each point at most (until no more)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only what is done under a name with the pattern")
    asked = parser.parse_args(argv)
    doings = [doing for doing in (ANALYSIS, BUILD) if re.search(asked.only, doing.name)]
    sys.stdout.write(said(on_private_ground(lambda ground: prove_all(ground, doings, asked.nth))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
