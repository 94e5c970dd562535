"""A fault in one piece of work, whatever it says and whenever it comes, does not end the worker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from services.chassis.clock import SystemClock
from services.chassis.errors import TransientError
from services.chassis.migrations import migrate
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, Worker, WorkItem

pytestmark = pytest.mark.integration
DEADLINE_S = 60.0


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A store with the chassis's own tables."""
    opened = await Store.open(database_url, "machines")
    await migrate(opened, ())
    yield opened
    await opened.close()


class ClockAhead(SystemClock):
    """The clock of a host that is ten minutes ahead of the database."""

    def now(self) -> datetime:
        """What it shows."""
        return super().now() + timedelta(minutes=10)


async def work(
    store: Store,
    runners: tuple[Runner, ...],
    kinds: tuple[str, ...],
    done: asyncio.Event,
    *,
    clock: SystemClock | None = None,
) -> None:
    """The kinds of work are enqueued, one each, and worked on until `done`. A worker that ends raises."""
    clock = clock or SystemClock()
    unit = Unit(service="machines", at=clock.now(), uuid=clock.uuid, announce=lambda _event, _of: ())
    for kind in kinds:
        unit.enqueue(kind, kind, {})
    await store.commit(unit)
    by_kind = {runner.kind: runner for runner in runners}
    worker = Worker(service="machines", store=store, clock=clock, announce=lambda _event, _of: (), runners=by_kind)
    running = asyncio.create_task(worker.run())
    waiting = asyncio.create_task(done.wait())
    try:
        await asyncio.wait({running, waiting}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        assert done.is_set()
    finally:
        for task in (running, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.mark.promise("P3")
async def test_a_fault_whose_words_the_database_cannot_store_is_tried_again(store: Store) -> None:
    """The words of a fault may be a guest's; a NUL in them costs neither the work nor the worker."""
    done = asyncio.Event()

    async def run(item: WorkItem, _context: WorkContext) -> None:
        if item.attempt == 1:
            raise TransientError("the guest said \x00")
        done.set()

    await work(store, (Runner("first", run),), ("first",), done)


@pytest.mark.promise("P3")
async def test_giving_up_may_fail_and_other_work_goes_on(store: Store) -> None:
    """What could not be recorded stays to be tried again; the worker lives."""
    done, gave_up = asyncio.Event(), asyncio.Event()

    async def break_down(_item: WorkItem, _context: WorkContext) -> None:
        raise ValueError("a defect")

    async def give_up(_item: WorkItem, _context: WorkContext, _error: Exception) -> None:
        gave_up.set()
        raise RuntimeError("another defect")

    async def other(_item: WorkItem, _context: WorkContext) -> None:
        await gave_up.wait()
        await asyncio.sleep(0.2)
        done.set()

    await work(store, (Runner("bad", break_down, give_up), Runner("other", other)), ("bad", "other"), done)
    assert [row["kind"] for row in await store.fetch("SELECT kind FROM work WHERE kind = 'bad'")] == ["bad"]


@pytest.mark.promise("P12")
async def test_work_that_is_given_up_is_said_to_be_though_nothing_follows_from_it(store: Store) -> None:
    """Of a kind for which giving up records nothing: it was interrupted too often, and the log names it and why."""
    done = asyncio.Event()

    async def never(_item: WorkItem, _context: WorkContext) -> None:
        raise AssertionError

    async def other(_item: WorkItem, _context: WorkContext) -> None:
        while await store.fetch("SELECT FROM work WHERE kind = 'bad'"):  # noqa: ASYNC110 - its end is no commit of a unit
            await asyncio.sleep(0.02)
        done.set()

    await store.fetch("INSERT INTO work (kind, key, payload, attempts) VALUES ('bad', 'one', '{}', 7)")
    with capture_logs() as logs:
        await work(store, (Runner("bad", never, attempts_max=7), Runner("other", other)), ("other",), done)
    assert [one["reason"] for one in logs if one["event"] == "work_was_given_up"] == [
        "TransientError('interrupted too often')"
    ]


@pytest.mark.promise("P19")
async def test_work_that_is_due_now_is_done_now_whatever_the_clock_of_its_service_shows(store: Store) -> None:
    """A service that is ten minutes ahead of the database does not put its work off for so long."""
    done = asyncio.Event()

    async def run(_item: WorkItem, _context: WorkContext) -> None:
        done.set()

    await work(store, (Runner("now", run),), ("now",), done, clock=ClockAhead())
