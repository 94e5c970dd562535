"""When things happened to a task, from the record of facts."""

from typing import Any

import pytest

from tests.bench.timeline import between, of_task, since

TASK = "tsk_1"


def fact(kind: str, second: int, task_id: str = TASK, stage: str | None = None) -> dict[str, Any]:
    data = {"task_id": task_id} | ({"stage": stage} if stage else {})
    return {"type": kind, "time": f"2026-01-01T00:00:{second:02}Z", "correlationid": task_id, "data": data}


def test_facts_stand_in_the_order_in_which_they_happened() -> None:
    """The record holds them in the order of arrival, which is another one."""
    assert list(of_task([fact("second", 2), fact("first", 1)], TASK)) == ["first", "second"]


def test_facts_of_other_tasks_are_left_out() -> None:
    """Many tasks share one record."""
    assert list(of_task([fact("mine", 1), fact("theirs", 2, "tsk_2")], TASK)) == ["mine"]


def test_the_same_fact_of_two_stages_is_told_apart() -> None:
    """Each stage starts once, and both starts are kept."""
    events = [fact("started", 1, stage="static"), fact("started", 2, stage="guest"), fact("started", 3, stage="guest")]
    instants = since(of_task(events, TASK), of_task(events, TASK)["started (static)"])
    assert instants == {"started (static)": 0.0, "started (guest)": 1.0}


def test_a_span_is_found_whatever_the_stage() -> None:
    """The stage in brackets is not part of a fact's type."""
    instants = of_task([fact("begun", 1, stage="guest"), fact("done", 4)], TASK)
    assert between(instants, "begun", "done") == 3.0


def test_a_span_without_its_end_is_refused() -> None:
    """A figure is never made of a fact that did not happen."""
    with pytest.raises(KeyError):
        between(of_task([fact("begun", 1)], TASK), "begun", "done")
