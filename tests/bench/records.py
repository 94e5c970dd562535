"""Rows of the store alone: rebuilding a projection by replay, and picking the next task from a long queue."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from contracts.blobs import BlobRef
from contracts.ids import new
from contracts.intake import TaskSubmitted
from contracts.planning import Plan
from contracts.submission import AnalysisRequest, SampleRef
from deploy.local.installation import Installation
from services.chassis.migrations import migrate
from services.chassis.rebuild import rebuild
from services.chassis.store import Store
from services.chassis.unit import Cause, Unit
from services.scheduler import announcements, tables, waiting
from services.scheduler.domain.task import Task
from services.scheduler.main import MIGRATIONS
from tests.bench.measure import Reference, Row, percentile

REPLAY = Reference("notification log read 130 000/s bare", ">= 20 000/s")
PICK = Reference("CAPEv2 88 ms at 1 000; Cuckoo3 0.9 ms at 20 000", "<= 1 ms, flat")
FUTILE = Reference("CAPEv2 2.4 s at 1 000; Cuckoo3 6.9 ms at 20 000", "<= 1 ms, flat")
SERVICE = "scheduler"
TASKS = 2000
BACKLOGS = (10, 1_000, 20_000, 1_000_000)
MACHINES = 40
PICKS = 50
OWNERS = 100
FILL_SLICE = 50_000
FILL = """
WITH filled AS (
    INSERT INTO queue (task_id, owner, profile, machine_id, route, priority, queued_at, cost_s)
    SELECT 'tsk_' || md5(n::text), 'owner-' || n % $3::int, 'linux', CASE WHEN n % 50 = 0 THEN 'm-9' ELSE '' END,
    CASE WHEN n % 20 = 1 THEN 'internet' ELSE 'none' END, n % 10, now() - n * interval '1 ms', 60
    FROM generate_series($1::int, $2::int) AS n RETURNING owner, priority, profile, machine_id, route),
opened AS (INSERT INTO shares SELECT DISTINCT owner, priority, 0 FROM filled ON CONFLICT DO NOTHING)
SELECT DISTINCT owner, priority, profile, machine_id, route FROM filled
"""


async def replay(here: Installation, runs: int) -> Row:
    """Events per second while the scheduler's list of tasks is made again from its events."""
    store = await _store(here)
    try:
        events = await _history(store)
        rates = []
        for _ in range(runs):
            began = time.monotonic()
            rebuilt = await rebuild(store, tables.TASKS)
            rates.append(rebuilt.events / (time.monotonic() - began))
    finally:
        await store.close()
    return Row(
        name="rebuild a projection by replay",
        what_ran=f"{events} events of {TASKS} tasks, the scheduler's own projection (task_rows) made anew and compared",
        unit="events/s",
        values=tuple(rates),
        reference=REPLAY,
    )


async def queue(here: Installation, runs: int) -> list[Row]:
    """The next match at growing backlogs: with a machine that is ready, and with all of them busy."""
    store = await _store(here)
    try:
        await store.fetch(
            "INSERT INTO pool (machine_id, host, profile, platform, routes, summary, is_ready, epoch) "
            "SELECT 'm-' || n, 'local', 'linux', 'linux', ARRAY['none'], '{}', false, 1 "
            "FROM generate_series(1, $1::int) AS n",
            MACHINES,
        )
        rows, filled = [], 0
        for backlog in BACKLOGS:
            await _fill(store, filled, backlog)
            filled = backlog
            await store.fetch("ANALYZE queue, heads")
            rows += [await _pick(store, runs, backlog, is_ready=is_ready) for is_ready in (True, False)]
    finally:
        await store.close()
    return rows


async def _fill(store: Store, start: int, end: int) -> None:
    """That many tasks wait, put in by the slice: each is one statement, and a statement has its time."""
    lanes = set()
    for first in range(start, end, FILL_SLICE):
        rows = await store.fetch(FILL, first + 1, min(first + FILL_SLICE, end), OWNERS)
        lanes |= {tuple(row.values()) for row in rows}
    for lane in sorted(lanes):
        await store.fetch("SELECT refresh_lane($1, $2, $3, $4, $5)", *lane)


async def _pick(store: Store, runs: int, backlog: int, *, is_ready: bool) -> Row:
    await store.fetch("UPDATE pool SET is_ready = $1 AND machine_id = 'm-7'", is_ready)
    medians = []
    for _ in range(runs):
        times: list[float] = []
        for _ in range(PICKS):
            with _timed(times):
                found = await waiting.pick(store)
            if (found is not None) != is_ready:
                raise RuntimeError(f"the queue of {backlog} answered {found}")
        medians.append(1000 * percentile(times, 0.5))
    return Row(
        name=f"{'pick the next task' if is_ready else 'futile look, all machines busy'}, {backlog:,} queued",
        what_ran=f"median of {PICKS} looks a run, {MACHINES} machines, {'one' if is_ready else 'none'} ready, {OWNERS} "
        "owners, some tasks for one machine or one route only; the scheduler's own query over asyncpg on a real "
        "PostgreSQL",
        unit="ms",
        values=tuple(medians),
        reference=PICK if is_ready else FUTILE,
    )


async def _store(here: Installation) -> Store:
    store = await Store.open(here.postgres().url(SERVICE), SERVICE)
    await migrate(store, MIGRATIONS)
    return store


async def _history(store: Store) -> int:
    """Tasks are submitted, planned and completed; how many events there are."""
    for _ in range(TASKS):
        now = datetime.now(UTC)
        unit = Unit(service=SERVICE, at=now, uuid=uuid4, announce=announcements.announce, cause=Cause())
        task = Task.submit(_asked(), now)
        task.start(Plan(stages=()), "nothing", now)
        task.seal("clean", 0, now)
        unit.save(task)
        unit.outbox.clear()  # nobody is there to hear it
        await store.commit(unit)
    row = await store.fetchrow("SELECT count(*) AS n FROM events")
    return int(row["n"]) if row else 0


def _asked() -> TaskSubmitted:
    sample = SampleRef(blob=BlobRef(sha256=f"{uuid4().hex}{uuid4().hex}", size_bytes=1), name="sample.sh")
    return TaskSubmitted(
        task_id=new("tsk", uuid4()),
        submission_id=new("sub", uuid4()),
        owner="bench",
        sample=sample,
        request=AnalysisRequest(),
    )


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    began = time.monotonic()
    yield
    into.append(time.monotonic() - began)
