"""What the plugins service remembers of tasks, and for how long."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from contracts.ids import derived
from contracts.intake import ChildrenChosen
from contracts.plugins import ChildrenFound, PluginStageStarted, RunError
from contracts.scheduler import TaskCancelled, TaskCompleted, TaskFact, TaskFailed, TaskTimedOut, TaskUnserviceable
from services.chassis.housekeeping import expire
from services.chassis.migrations import migrate
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.plugins import rows
from services.plugins.handlers import HANDLERS
from services.plugins.main import MIGRATIONS

pytestmark = pytest.mark.integration
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TASK, OTHER = derived("tsk", "one"), derived("tsk", "other")


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
    assert await rows.load_events(store, TASK) == []
    assert [fact.task_id for _id, fact in await rows.load_events(store, OTHER)] == [OTHER]  # type: ignore[attr-defined]


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
        assert [fact for _, fact in await rows.load_events(store, TASK)] == remembered


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
        assert len(await rows.load_events(store, TASK)) == count


async def test_what_was_said_of_a_task_whose_end_nobody_heard_of_is_forgotten_at_last(store: Store) -> None:
    """Nothing is remembered for ever; every table that is to forget can."""
    await store.fetch("UPDATE said SET recorded_at = now() - interval '401 days' WHERE task_id = $1", TASK)
    assert {expiry.table: await expire(store, expiry) for expiry in rows.EXPIRIES} == {
        "late_results": 0,
        "pins": 0,
        "said": 1,
    }
    assert await rows.load_events(store, TASK) == []
    assert len(await rows.load_events(store, OTHER)) == 1


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
