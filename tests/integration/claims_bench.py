"""Workers for tests of claims: one that can run in a process of its own, and be stopped there.

    python -m tests.integration.claims_bench DATABASE_URL FILE

writes one line to the file for each thing that its runner does.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from services.chassis.clock import SystemClock
from services.chassis.store import Fenced, Store
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, Worker, WorkItem

SCHEMA = "machines"
KIND = "hold"
TOUCH_S = 0.1


def make_worker(store: Store, run: Callable[[WorkItem, WorkContext], Awaitable[None]]) -> Worker:
    """A worker of the one kind."""
    runners = {KIND: Runner(KIND, run)}
    return Worker(service=SCHEMA, store=store, clock=SystemClock(), announce=lambda _event, _of: (), runners=runners)


@contextlib.asynccontextmanager
async def working(store: Store, run: Callable[[WorkItem, WorkContext], Awaitable[None]]) -> AsyncIterator[None]:
    """A worker runs in this process; it is stopped afterwards."""
    task = asyncio.create_task(make_worker(store, run).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def enqueue(store: Store) -> None:
    """One piece of work is due."""
    clock = SystemClock()
    unit = Unit(service=SCHEMA, at=clock.now(), uuid=clock.uuid, announce=lambda _event, _of: ())
    unit.enqueue(KIND, "one", {})
    await store.commit(unit)


async def note(context: WorkContext, what: str, *, finish: bool = False) -> None:
    """A row says what was done, committed under the claim. Raises Fenced."""

    async def decide(unit: Unit) -> None:
        unit.execute("INSERT INTO seen (what) VALUES ($1)", what)

    await context.commit(decide, finish=finish)


async def hold(context: WorkContext, file: Path) -> None:
    """The world is touched again and again; once cancelled, the outcome is committed all the same, if that can be."""
    await note(context, "begun by the first")
    try:
        while True:
            write(file, "touched")
            await asyncio.sleep(TOUCH_S)
    except asyncio.CancelledError:
        write(file, "cancelled")
        for finish in (False, True):
            try:
                await note(context, "late", finish=finish)
            except Fenced:
                write(file, "fenced")
        raise


def write(file: Path, line: str) -> None:
    """The line stands at the end of the file."""
    with file.open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")


async def main(database_url: str, file: Path) -> None:
    """Works until killed."""
    store = await Store.open(database_url, SCHEMA)

    async def run(_item: WorkItem, context: WorkContext) -> None:
        await hold(context, file)

    await make_worker(store, run).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
