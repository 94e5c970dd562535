"""What the plugins service remembers of tasks, and for how long."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from contracts.blobs import BlobRef
from contracts.envelope import Message
from contracts.ids import derived
from contracts.intake import ChildrenChosen
from contracts.planning import Plan, PlannedStage
from contracts.plugins import (
    ChildrenFound,
    PluginResultProduced,
    PluginStageCompleted,
    PluginStageSkipped,
    PluginStageStarted,
    RunError,
)
from contracts.scheduler import (
    RunStage,
    TaskCancelled,
    TaskCompleted,
    TaskFact,
    TaskFailed,
    TaskTimedOut,
    TaskUnserviceable,
)
from malbox.sdk.manifest.events import SUBSCRIBABLE
from services.chassis import housekeeping
from services.chassis.housekeeping import INBOX_DAYS, expire
from services.chassis.migrations import migrate
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.plugins import rows
from services.plugins.expiries import EXPIRIES, OF_TASKS
from services.plugins.handlers import HANDLERS, RUN_STAGE, do_run_stage
from services.plugins.main import MIGRATIONS
from services.plugins.quarantine import GivenUp, Quarantine
from tests.unit.plugins import instances_bench

pytestmark = pytest.mark.integration
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TASK, OTHER, RUNNING = derived("tsk", "one"), derived("tsk", "other"), derived("tsk", "running")
KINDS = {fact.type_name() for fact in SUBSCRIBABLE.values()}
STAGE = PlannedStage(name="static", groups=())
PLAN = Plan(stages=(STAGE,))
ORDER = RunStage.model_validate(
    {
        "task_id": TASK,
        "attempt": 1,
        "stage": STAGE,
        "sample": {"blob": {"sha256": "0" * 64, "size_bytes": 1}, "name": "a"},
        "request": {},
    }
)


@pytest.fixture(name="store")
async def store_fixture(database_url: str) -> AsyncIterator[Store]:
    """A store of the plugins service, its schema made; something was said of two tasks."""
    opened = await Store.open(database_url, "plugins")
    await migrate(opened, MIGRATIONS)
    unit = _unit()
    for task_id in (TASK, OTHER):
        fact = PluginStageStarted(task_id=task_id, attempt=1, stage="static")
        key = rows.StageKey(task_id, 1, "static")
        rows.keep_said(unit, key, f"msg {task_id}", fact, is_awaited=False, place=0)
    await opened.commit(unit)
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    "end",
    [
        TaskCompleted(task_id=TASK, attempts=1, machine="clean"),
        TaskFailed(task_id=TASK, attempts=1, machine="clean", reason="x"),
        TaskTimedOut(task_id=TASK, attempts=1, machine="clean", reason="x"),
        TaskCancelled(task_id=TASK, attempts=1, machine="clean", reason="x"),
        TaskUnserviceable(task_id=TASK, reason="x"),
    ],
    ids=lambda fact: type(fact).__name__,
)
async def test_what_was_said_of_a_task_is_forgotten_with_its_end(end: TaskFact, store: Store) -> None:
    """However it ended; what was said of another task stays."""
    unit = _unit()
    await HANDLERS[type(end)](end, unit, store)
    await store.commit(unit)
    assert await rows.load_events(store, TASK, KINDS) == ([], {})
    assert await said_of(store, OTHER) == [PluginStageStarted(task_id=OTHER, attempt=1, stage="static")]


async def test_what_was_found_inside_is_remembered_until_it_is_heard_what_became_of_it(store: Store) -> None:
    """The broker may lose it, and the task may end before anybody notices; it is said again until it is answered."""
    found = ChildrenFound(task_id=TASK, attempt=1, stage="static", submission_id=derived("sub", "one"), children=())
    key = rows.StageKey(TASK, 1, "static")
    end = TaskCompleted(task_id=TASK, attempts=1, machine="clean")
    chosen = ChildrenChosen(task_id=TASK, submission_id=found.submission_id, children=())
    unit = _unit()
    rows.keep_said(unit, key, "msg found", found, is_awaited=True, place=1)
    rows.await_decision(unit, key)
    await store.commit(unit)
    for fact, remembered in ((end, [found]), (chosen, [])):
        unit = _unit()
        await HANDLERS[type(fact)](fact, unit, store)
        await store.commit(unit)
        assert await said_of(store, TASK) == remembered


async def test_what_was_found_inside_goes_with_the_task_once_it_was_answered(store: Store) -> None:
    """As it is mostly: the answer comes before the end. What others may be told of stays until then."""
    found = ChildrenFound(task_id=TASK, attempt=1, stage="static", submission_id=derived("sub", "one"), children=())
    unit = _unit()
    rows.keep_said(unit, rows.StageKey(TASK, 1, "static"), "msg found", found, is_awaited=True, place=1)
    await store.commit(unit)
    chosen = ChildrenChosen(task_id=TASK, submission_id=found.submission_id, children=())
    for fact, count in ((chosen, 2), (TaskCompleted(task_id=TASK, attempts=1, machine="clean"), 0)):
        unit = _unit()
        await HANDLERS[type(fact)](fact, unit, store)
        await store.commit(unit)
        assert len(await said_of(store, TASK)) == count


async def test_what_was_said_of_a_task_whose_end_nobody_heard_of_is_forgotten_at_last(store: Store) -> None:
    """Nothing is remembered for ever; every table that is to forget can."""
    await remember(store, TASK)
    for table in (*OF_TASKS, "pins", "said"):
        await store.fetch(f"UPDATE {table} SET recorded_at = now() - interval '401 days' WHERE task_id = $1", TASK)  # noqa: S608
    assert await expired(store) == {"late_results": 0, **dict.fromkeys(OF_TASKS, 1), "pins": 1, "said": 1}
    assert await rows.load_events(store, TASK, KINDS) == ([], {})
    assert len(await said_of(store, OTHER)) == 1


async def test_what_was_said_can_be_had_by_type_and_without_what_was_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, a bounded number at once, until there is nothing more."""
    monkeypatch.setattr(rows, "TOLD_AT_ONCE_MAX", 2)
    skipped = await said_three_times(store)
    kinds, told = {PluginStageSkipped.type_name()}, set[str]()
    assert await rows.load_events(store, TASK, kinds) == ([skipped] * 3, {})
    for expected in (["msg skipped 1", "msg skipped 2"], ["msg skipped 3"], []):
        untold = await rows.load_untold(store, TASK, kinds, told)
        assert untold == [(message_id, skipped) for message_id in expected]
        told |= {message_id for message_id, _ in untold}
    assert len(await said_of(store, TASK)) == 4


async def said_three_times(store: Store) -> PluginStageSkipped:
    """A fact of the task, kept under three ids."""
    key, unit = rows.StageKey(TASK, 1, "static"), _unit()
    skipped = PluginStageSkipped(task_id=TASK, attempt=1, stage="guest", reason="so")
    for place in range(1, 4):
        rows.keep_said(unit, key, f"msg skipped {place}", skipped, is_awaited=True, place=place)
    await store.commit(unit)
    return skipped


async def said_of(store: Store, task_id: str) -> Sequence[Message]:
    """The facts that plugins could be told of the task."""
    facts, earlier = await rows.load_events(store, task_id, KINDS)
    assert earlier == {}
    return facts


async def test_facts_beyond_those_that_are_read_are_counted_by_their_type(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest are read; as many as are read, the control, leave none out."""
    monkeypatch.setattr(rows, "SAID_MAX", 2)
    skipped = await said_three_times(store)
    earlier = {PluginStageStarted.type_name(): 1, PluginStageSkipped.type_name(): 1}
    assert await rows.load_events(store, TASK, KINDS) == ([skipped] * 2, earlier)
    monkeypatch.setattr(rows, "SAID_MAX", 4)
    assert (await rows.load_events(store, TASK, KINDS))[1] == {}


async def test_the_end_of_a_stage_of_very_many_results_is_said_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it waits for its first results as well; what is left out is counted, and all is in order."""
    monkeypatch.setattr(rows, "SAID_MAX", 3)
    key, unit = rows.StageKey(TASK, 1, "static"), _unit()
    for place in range(4):
        rows.keep_said(unit, key, f"msg result {place}", result(place), is_awaited=True, place=place)
    ended = PluginStageCompleted(task_id=TASK, attempt=1, stage="static", result_ids=(), errors=())
    rows.keep_said(unit, key, "msg end", ended, is_awaited=True, place=4)
    await store.commit(unit)
    with capture_logs() as logged:
        said = await rows.load_said(store, key)
    assert [message_id for message_id, _fact in said] == ["msg result 0", "msg result 1", "msg end"]
    assert [(line["event"], line["left_out"]) for line in logged] == [("results_were_not_said_again", 2)]


async def test_results_beyond_those_that_are_looked_through_are_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first are looked through."""
    for place in range(3):
        unit = _unit()
        rows.keep_result(unit, result(place))
        await store.commit(unit)
    for most, unseen in ((2, 1), (3, 0)):
        monkeypatch.setattr(rows, "PRODUCED_MAX", most)
        produced, left_out = await rows.load_produced(store, rows.StageKey(TASK, 1, "static"))
        assert ([one.name for one in produced], left_out) == ([f"r{place}" for place in range(most)], unseen)


def result(number: int) -> PluginResultProduced:
    """One of many results of the task's static stage."""
    return PluginResultProduced(
        task_id=TASK,
        attempt=1,
        stage="static",
        result_id=derived("res", number),
        run_id=derived("run", "one"),
        plugin="one",
        version="1.0.0",
        name=f"r{number}",
        kind="bytes",
        media_type="text/plain",
        blob=BlobRef(sha256="0" * 64, size_bytes=1),
    )


async def test_what_is_remembered_of_a_task_goes_a_month_after_its_end(store: Store) -> None:
    """In every table, its end last. Of a task that runs everything stays however old it is, of a later end all too."""
    ages = {TASK: 31, OTHER: 29, RUNNING: None}
    for task_id, days in ages.items():
        await remember(store, task_id)
        if days is not None:
            await end(store, task_id, days=days)
    for table in OF_TASKS:
        await store.fetch(f"UPDATE {table} SET recorded_at = now() - interval '399 days'")  # noqa: S608
    assert await expired(store) == {"late_results": 0, **dict.fromkeys(OF_TASKS, 1), "pins": 1, "said": 0}
    for table in (*OF_TASKS, "pins"):
        assert await tasks_in(store, table) == {OTHER, RUNNING}
    assert [run["plugin"] for run in await rows.load_runs(store, RUNNING)] == ["pe"]


async def test_a_task_whose_end_was_heard_of_before_its_plan_is_forgotten_too(store: Store) -> None:
    """The plan that comes late does not make it a task that runs."""
    await remember(store, TASK, is_planned=False)
    await end(store, TASK, days=31)
    unit = _unit()
    rows.keep_pins(unit, TASK, PLAN)
    await store.commit(unit)
    await expired(store)
    for table in (*OF_TASKS, "pins"):
        assert await tasks_in(store, table) == set()


async def test_rows_go_in_bounded_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is, one statement deletes no more than the bound; in the end all of it is gone."""
    monkeypatch.setattr(housekeeping, "BATCH_MAX", 2)
    await remember(store, TASK, runs=5)
    await end(store, TASK, days=31)
    sizes = []
    fetch = store.fetch

    async def seen(sql: str, *arguments: Any) -> list[Any]:
        found = await fetch(sql, *arguments)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(store, "fetch", seen)
    [expiry] = [one for one in EXPIRIES if one.table == "stage_runs" and one.of]
    assert await expire(store, expiry) == 5
    assert sizes == [2, 2, 1]


@pytest.mark.promise("P15")
async def test_an_order_that_comes_again_while_the_inbox_may_have_forgotten_it_runs_nothing(store: Store) -> None:
    """A message lives for two weeks at most, and the stage is known for longer than that after the end of its task."""
    await remember(store, TASK)
    await end(store, TASK, days=INBOX_DAYS + 1)
    await expired(store)
    unit = _unit()
    await do_run_stage(ORDER, unit, store)
    assert unit.work == []


@pytest.mark.promise("P15")
@pytest.mark.parametrize(
    ("state", "decided_days", "left"),
    [("parked", None, {TASK}), ("replayed", 29, {TASK}), ("replayed", 31, set()), ("dropped", 31, set())],
)
async def test_a_task_stays_known_while_an_operator_may_have_its_messages_handled(
    state: str, decided_days: int | None, left: set[str], store: Store
) -> None:
    """A dead letter waits for as long as nobody decides; a copy of a replay may be on its way a while after it."""
    await remember(store, TASK)
    await end(store, TASK, days=300)
    await store.fetch(
        "INSERT INTO parked (id, queue, type, subject, reason, body, times, state, decided_at) "
        "VALUES ('one', 'plugins.commands', 'x', $1, 'x', '', 1, $2, now() - make_interval(days => $3))",
        *(TASK, state, decided_days),
    )
    await expired(store)
    for table in (*OF_TASKS, "pins"):
        assert await tasks_in(store, table) == left


async def test_a_task_stays_known_while_work_for_it_is_to_be_done(store: Store) -> None:
    """Its stage finds what it did before, though it ended long ago for everybody else; then it goes."""
    await remember(store, TASK)
    await end(store, TASK, days=31)
    unit = _unit()
    unit.enqueue(RUN_STAGE, f"{TASK}/1/static", {"task_id": TASK})
    await store.commit(unit)
    assert sum((await expired(store)).values()) == 0
    await store.fetch("DELETE FROM work")
    assert sum((await expired(store)).values()) == len(OF_TASKS) + 1


async def remember(store: Store, task_id: str, *, runs: int = 1, is_planned: bool = True) -> None:
    """Something is known of the task in every table."""
    key, unit = rows.StageKey(task_id, 1, "static"), _unit()
    if is_planned:
        rows.keep_pins(unit, task_id, PLAN)
    rows.order_stage(unit, key)
    rows.keep_prepared(unit, task_id, rows.Prepared("elf", "linux", "a", "0" * 64))
    for number in range(runs):
        error = RunError(plugin="pe", stage="static", outcome="failed", reason="so")
        run_id = derived("run", task_id, number)
        rows.keep_run(unit, key, run_id, "1.0.0", error, is_error=True, duration_ms=7, log="log")
    result = PluginResultProduced(
        task_id=task_id,
        attempt=1,
        stage="static",
        result_id=derived("res", task_id),
        run_id=derived("run", task_id, 0),
        plugin="pe",
        version="1.0.0",
        name="pe",
        kind="bytes",
        media_type="text/plain",
        blob=BlobRef(sha256="0" * 64, size_bytes=1),
    )
    rows.keep_result(unit, result)
    await store.commit(unit)


async def end(store: Store, task_id: str, *, days: int) -> None:
    """The end of the task was heard of so long ago."""
    fact, unit = TaskCompleted(task_id=task_id, attempts=1, machine="clean"), _unit()
    await HANDLERS[type(fact)](fact, unit, store)
    await store.commit(unit)
    await store.fetch("UPDATE pins SET ended_at = now() - make_interval(days => $2) WHERE task_id = $1", task_id, days)


async def expired(store: Store) -> dict[str, int]:
    """How many rows of each table housekeeping deletes."""
    counts: Counter[str] = Counter()
    for expiry in EXPIRIES:
        counts[expiry.table] += await expire(store, expiry)
    return dict(counts)


async def tasks_in(store: Store, table: str) -> set[str]:
    """The tasks that the table knows."""
    return {row["task_id"] for row in await store.fetch(f"SELECT task_id FROM {table}")}  # noqa: S608


@pytest.mark.promise("D1")
async def test_what_is_quarantined_is_remembered_until_it_is_lifted_or_gone(store: Store) -> None:
    """By whoever starts after it; what has no digest is part of the service, and remembered by nobody."""
    kept, own = instances_bench.plugin("one", digest="d1"), instances_bench.plugin("own")
    first = Quarantine(store)
    for each in (kept, own):
        first.put(each, GivenUp(each.name, "no module \0x", 5, NOW))
        await first.save(each.digest)
    after = await _loaded(store)
    assert after.of(kept) == GivenUp("one", "no module x", 5, NOW)
    assert after.of(own) is None
    assert not await after.lift("other")
    assert (await _loaded(store)).of(kept) is not None
    assert await after.lift("one")
    assert (await _loaded(store)).of(kept) is None
    first.put(kept, GivenUp("one", "x", 5, NOW))
    await first.save("d1")
    await first.forget("d1")
    assert (await _loaded(store)).of(kept) is None


async def _loaded(store: Store) -> Quarantine:
    quarantine = Quarantine(store)
    await quarantine.load()
    return quarantine


def _unit() -> Unit:
    return Unit(service="plugins", at=NOW, uuid=uuid4, announce=lambda _event, _version: ())


async def test_what_runs_came_to_and_what_they_logged_can_be_read(store: Store) -> None:
    """Of one task alone, in order; the log only where it is asked for."""
    unit = _unit()
    for task_id, plugin, outcome in ((TASK, "yara", "completed"), (TASK, "pe", "crashed"), (OTHER, "pe", "failed")):
        key = rows.StageKey(task_id, 1, "static")
        ended = RunError.model_validate({"plugin": plugin, "stage": "static", "outcome": outcome, "reason": "so"})
        run_id = derived("run", task_id, plugin)
        rows.keep_run(unit, key, run_id, "1.0.0", ended, is_error=False, duration_ms=7, log=f"log of {plugin}")
    await store.commit(unit)
    listed = await rows.load_runs(store, TASK)
    assert {(one["plugin"], one["outcome"], one["log_chars"]) for one in listed} == {
        ("yara", "completed", 11),
        ("pe", "crashed", 9),
    }
    assert all("log" not in one for one in listed)
    [run] = await rows.load_runs_of(store, TASK, "pe")
    assert (run["stage"], run["reason"], run["duration_ms"], run["log"]) == ("static", "so", 7, "log of pe")
    assert await rows.load_runs_of(store, TASK, "absent") == []
