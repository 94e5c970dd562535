"""Keeps every part running: a process that ends is started again, later each time it ends soon.

    python -m deploy.local.supervisor        (MALBOX_STATE names the state directory)

It learns of an end from the kernel (pidfd), so it watches what others started as well as its own children. It stops
nothing: `down` ends it first, then the parts.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog

from deploy.local import crashes, guest_group, parts, processes
from deploy.local.installation import Installation
from deploy.local.parts import Part
from deploy.local.settings import machines_file
from deploy.local.state import STATE_VARIABLE, DeployError, State

NAME = "supervisor"
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 30.0
STEADY_AFTER_S = 30.0
PRECONDITION_POLL_S = 0.5
ROOM_INTERVAL_S = 2.0

log = structlog.get_logger()


def start(state: State) -> processes.Identity:
    """The supervisor of the installation runs."""
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(state.app),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    argv = [str(state.python), "-m", "deploy.local.supervisor"]
    user = "root" if os.geteuid() == 0 else state.users.services
    with processes.only_starter(state, NAME):
        running = processes.started(state, NAME)
        return running or processes.spawn(state, processes.Command(NAME, argv, user, env, state.app))


def stop(state: State) -> bool:
    """Nothing is started again any more. Returns whether the supervisor ran."""
    return processes.stop(state, NAME)


async def watch(state: State, part: Part) -> None:
    """The part runs for ever: started, watched, started again; how often it ended in a row is kept for `up`."""
    backoff_s = BACKOFF_FIRST_S
    in_a_row = 0
    crashes.note(state, part.name, in_a_row)
    loop = asyncio.get_running_loop()
    last_reason = ""
    while True:
        while not part.can_start():  # noqa: ASYNC110 - what it waits for happens in another process
            await asyncio.sleep(PRECONDITION_POLL_S)
        began_s = loop.time()
        try:
            identity = await asyncio.to_thread(part.start)
        except (DeployError, OSError) as error:
            if str(error) != last_reason:
                log.warning("part_could_not_start", part=part.name, reason=str(error))
            last_reason = str(error)
        else:
            last_reason = ""
            log.info("part_is_running", part=part.name, pid=identity.pid)
            await ended(identity)
            log.warning("part_ended", part=part.name, pid=identity.pid, ran_s=round(loop.time() - began_s, 1))
        if loop.time() - began_s > STEADY_AFTER_S:
            backoff_s, in_a_row = BACKOFF_FIRST_S, 0
        in_a_row += 1
        crashes.note(state, part.name, in_a_row)
        await asyncio.sleep(backoff_s)
        backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)


async def ended(identity: processes.Identity) -> None:
    """The process has ended, and is no zombie of ours."""
    descriptor = identity.open_pidfd()
    if descriptor is not None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    processes.reap(identity.pid)


async def supervise(state: State, everything: list[Part]) -> None:
    """Watches all parts until cancelled."""
    async with asyncio.TaskGroup() as group:
        for part in everything:
            group.create_task(watch(state, part))
        group.create_task(keep_room(state))


async def keep_room(state: State) -> None:
    """The guests' group has room for every machine that the operator's file names, until cancelled.

    Looked at as often as the machines service looks at the file, or more: what it builds from it has its memory.
    """
    while True:
        wanted = await asyncio.to_thread(guest_group.allowance, machines_file(state))
        await asyncio.to_thread(guest_group.widen, state, wanted)
        await asyncio.sleep(ROOM_INTERVAL_S)


def main() -> None:
    """The supervisor's process: ends at once on SIGTERM, and leaves what it watched running."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
    )
    here = Installation.open(State(Path(os.environ[STATE_VARIABLE])))
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    log.info("supervisor_started", python=sys.executable)
    asyncio.run(supervise(here.state, [*parts.servers(here), *parts.services(here)]))


if __name__ == "__main__":
    main()
