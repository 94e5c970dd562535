"""Claims on a real database: taken from a process that stands still, kept through jumping clocks, ended unrenewed."""

import asyncio
import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from services.chassis.migrations import migrate
from services.chassis.store import Store, StoreUnavailable
from services.chassis.work import WorkContext, WorkItem, claims
from tests.integration.claims_bench import SCHEMA, enqueue, note, working

pytestmark = pytest.mark.integration
DEADLINE_S = 30.0


@pytest.fixture(name="store")
async def store_fixture(database_url: str) -> AsyncIterator[Store]:
    """A store with the chassis's own tables, and one that says what was done."""
    opened = await Store.open(database_url, SCHEMA)
    await migrate(opened, ("CREATE TABLE seen (n serial, what text NOT NULL)",))
    yield opened
    await opened.close()


@pytest.fixture(name="quick")
def quick_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewed several times as often; a claim lasts as long as ever, however slow the host is for a moment."""
    monkeypatch.setattr(claims, "RENEW_S", 0.5)


async def seen(store: Store) -> list[str]:
    """What was committed, in order."""
    return [row["what"] for row in await store.fetch("SELECT what FROM seen ORDER BY n")]


async def beats(store: Store) -> int:
    """How often the one claim was renewed or taken."""
    row = await store.fetchrow("SELECT beats FROM work")
    assert row is not None, "the work was to go on"
    return int(row["beats"])


async def until_renewed(store: Store, times: int) -> None:
    """The one claim was renewed so many times more, which takes `RENEW_S` each at least. Raises TimeoutError."""
    before = await beats(store)
    async with asyncio.timeout(DEADLINE_S):
        while await beats(store) < before + times:  # noqa: ASYNC110 - the database counts them
            await asyncio.sleep(0.05)


async def until_line(file: Path, line: str, count: int = 1) -> None:
    """The file has that many of the line. Raises TimeoutError."""
    async with asyncio.timeout(DEADLINE_S):
        while lines(file).count(line) < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)


def lines(file: Path) -> list[str]:
    """What the other process wrote."""
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@pytest.mark.promise("P2", "P3")
async def test_a_worker_that_stood_still_changes_nothing_after_its_claim_was_taken(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    """A real process is stopped for longer than a claim lasts; it goes on, is cancelled, and can commit nothing."""
    file, taken = tmp_path / "did", asyncio.Event()
    await enqueue(store)
    argv = (sys.executable, "-m", "tests.integration.claims_bench", database_url, str(file))
    stopped = await asyncio.create_subprocess_exec(*argv)
    try:
        await until_line(file, "touched", 3)
        os.kill(stopped.pid, signal.SIGSTOP)
        before = len(lines(file))

        async def run(item: WorkItem, context: WorkContext) -> None:
            await note(context, f"attempt {item.attempt} by the second", finish=True)
            taken.set()

        async with working(store, run):
            await asyncio.wait_for(taken.wait(), DEADLINE_S)
        os.kill(stopped.pid, signal.SIGCONT)
        await until_line(file, "fenced", 2)
    finally:
        stopped.kill()
        await stopped.wait()
    assert await seen(store) == ["begun by the first", "attempt 2 by the second"]
    after = lines(file)[before:]
    assert after.count("touched") <= 1, "one step may have been due when it was stopped"
    assert after[-3:] == ["cancelled", "fenced", "fenced"]
    assert await store.fetch("SELECT FROM work") == []


@pytest.mark.promise("P19")
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("jump", ["1 day", "-1 day"])
async def test_a_jump_of_the_databases_clock_ends_no_claim(jump: str, store: Store, database_url: str) -> None:
    """Held work is neither taken by another worker nor given up by its own; it ends as its first attempt."""
    await store.fetch("CREATE TABLE jumps (by interval NOT NULL)")
    await store.fetch(
        "CREATE FUNCTION machines.now() RETURNS timestamptz LANGUAGE sql STABLE AS "
        "'SELECT pg_catalog.now() + coalesce((SELECT sum(by) FROM jumps), interval ''0'')'"
    )
    path = {"search_path": f"{SCHEMA}, pg_catalog"}
    begun, ends, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    async def run(item: WorkItem, context: WorkContext) -> None:
        attempts.append(item.attempt)
        begun.set()
        await ends.wait()
        await note(context, "done", finish=True)
        done.set()

    async with asyncpg.create_pool(database_url, server_settings=path, timeout=10, command_timeout=10) as pool:
        jumping = Store(pool, SCHEMA)
        assert await jumping.fetch("SELECT FROM work WHERE now() <> pg_catalog.now()") == []
        await enqueue(jumping)
        async with working(jumping, run):
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
            async with working(jumping, run):
                await jumping.fetch("INSERT INTO jumps VALUES ($1::text::interval)", jump)
                shown = await jumping.fetchrow("SELECT abs(extract(epoch FROM now() - pg_catalog.now())) AS by")
                assert shown is not None
                assert shown["by"] == 86400
                await until_renewed(store, 10)
                ends.set()
                await asyncio.wait_for(done.wait(), DEADLINE_S)
    assert attempts == [1]


@pytest.mark.promise("P2")
@pytest.mark.usefixtures("quick")
async def test_a_worker_that_cannot_renew_ends_what_it_runs_and_takes_it_up_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer from the database the runner is cancelled; with one the next attempt finishes, once."""
    begun, cancelled, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    renew = claims.renew

    async def run(item: WorkItem, context: WorkContext) -> None:
        begun.set()
        if item.attempt == 1:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                cancelled.set()
                raise
        await note(context, f"attempt {item.attempt}", finish=True)
        done.set()

    async def gone(*_arguments: object) -> tuple[set[int], set[int]]:
        raise StoreUnavailable

    await enqueue(store)
    async with working(store, run):
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        await until_renewed(store, math.ceil(1.25 * claims.HELD_S / claims.RENEW_S))
        assert not cancelled.is_set(), "as long as it is renewed it runs"
        monkeypatch.setattr(claims, "renew", gone)
        await asyncio.wait_for(cancelled.wait(), DEADLINE_S)
        monkeypatch.setattr(claims, "renew", renew)
        await asyncio.wait_for(done.wait(), DEADLINE_S)
    assert await seen(store) == ["attempt 2"]


@pytest.mark.promise("P3")
async def test_work_of_a_worker_that_is_stopped_in_order_is_free_at_once(store: Store) -> None:
    """Its connection may live on in the pool: the claim is given back, not left to be found abandoned."""
    begun, done = asyncio.Event(), asyncio.Event()

    async def hang(_item: WorkItem, _context: WorkContext) -> None:
        begun.set()
        await asyncio.sleep(DEADLINE_S)

    async def finish(item: WorkItem, context: WorkContext) -> None:
        await note(context, f"attempt {item.attempt}", finish=True)
        done.set()

    await enqueue(store)
    async with working(store, hang):
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
    [row] = await store.fetch("SELECT claimed_pid, attempts FROM work")
    assert (row["claimed_pid"], row["attempts"]) == (None, 1)
    async with working(store, finish):
        await asyncio.wait_for(done.wait(), DEADLINE_S)
    assert await seen(store) == ["attempt 2"]
