"""The task aggregate: what follows from what."""

from datetime import datetime, timedelta

import pytest

from contracts.plugins import RunError
from contracts.scheduler import LeaseMachine, LostAttempt, ReleaseMachine, RunStage, SealReport, TaskCompleted
from services.scheduler.domain.task import NotPossible
from tests.unit.scheduler.task_course import finish, said, state
from tests.unit.scheduler.tasks import NOW, expired, granted, leased, started


def at(seconds: float) -> datetime:
    """So many seconds after the submission."""
    return NOW + timedelta(seconds=seconds)


def test_static_work_starts_at_once_while_the_task_waits_for_a_machine() -> None:
    """Static stages need no machine, so they are ordered together with the queueing."""
    task = started("static", "guest", "post")
    orders = [message for message in said(task) if isinstance(message, RunStage)]
    assert state(task) == "queued"
    assert [order.stage.name for order in orders] == ["static"]


@pytest.mark.promise("B2", "P9")
def test_completed_means_report_sealed_and_machine_clean() -> None:
    """Neither the sealed report nor the clean machine alone completes a task."""
    task = granted(started("static", "guest", "post"))
    for stage in ("static", "guest", "post"):
        task.end_stage(stage, 1, at=NOW, result_ids=("res_" + "1" * 32,))
    assert (state(task), task.machine) == ("reporting", "reverting")
    task.seal("benign", 0, NOW)
    assert state(task) == "reporting"
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert (state(task), task.machine) == ("completed", "clean")


@pytest.mark.promise("B2")
def test_a_clean_machine_without_a_report_does_not_complete_a_task() -> None:
    """The other order of the same two facts."""
    task = granted(started("guest"))
    task.end_stage("guest", 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert state(task) == "reporting"
    task.seal("benign", 0, NOW)
    assert state(task) == "completed"


@pytest.mark.promise("P20")
def test_a_task_ends_once() -> None:
    """Repeated facts after the end announce nothing more."""
    task = finish(granted(started("static", "guest", "post")))
    ends = [message for message in said(task) if isinstance(message, TaskCompleted)]
    finish(task)
    assert len(ends) == 1
    assert said(task) == []


@pytest.mark.promise("B1b", "G2")
def test_a_failed_guest_stage_gives_the_machine_back_and_tries_again() -> None:
    """A retryable failure costs an attempt, never a machine."""
    task = granted(started("guest"))
    said(task)
    task.end_stage("guest", 1, at=NOW, is_failed=True, is_retryable=True, reason="no agent")
    messages = said(task)
    assert any(isinstance(message, ReleaseMachine) for message in messages)
    assert (state(task), task.attempt_reasons) == ("queued", ["no agent"])


@pytest.mark.promise("G2")
def test_each_attempt_before_the_last_is_told_with_the_report() -> None:
    """When, on which machine, how it ended and why, and what went wrong in its runs; of its results nothing."""
    task = started("guest")
    failed = RunError(plugin="syscalls", stage="guest", outcome="failed", reason="no trace")
    task.match("linux-1", "local", at(1))
    task.grant(leased(task), at(2))
    task.end_stage(
        "guest",
        1,
        at=at(3),
        is_failed=True,
        is_retryable=True,
        reason="no agent",
        result_ids=("res_" + "7" * 32,),
        errors=(failed,),
        ended_by="guest_lost",
    )
    task.match("linux-2", "local", at(4))
    task.overrun("lease", at(5))
    granted(task, epoch=9)
    task.end_stage("guest", 2, at=NOW, result_ids=("res_" + "8" * 32,))
    [order] = [message for message in said(task) if isinstance(message, SealReport)]
    first, second = order.lost_attempts
    assert first == LostAttempt(
        number=1,
        machine_id="linux-1",
        began_at=at(1),
        ended_at=at(3),
        outcome="guest_lost",
        reason="no agent",
        errors=(failed,),
    )
    assert (second.number, second.machine_id, second.outcome, second.began_at) == (2, "linux-2", "not_ready", at(4))
    assert order.result_ids == ("res_" + "8" * 32,)


@pytest.mark.parametrize(("cause", "outcome"), [("guest_lost", "guest_lost"), ("not_prepared", "lease_lost")])
def test_a_lease_that_ends_by_itself_says_what_was_lost(cause: str, outcome: str) -> None:
    """The guest on it, or the lease."""
    task = granted(started("guest"))
    task.lose_machine(expired(task, cause), NOW)
    assert [(lost.outcome, lost.reason) for lost in task.lost_attempts] == [(outcome, "its virtual machine ended")]


def test_three_failed_attempts_are_a_failed_task_that_says_why() -> None:
    """Attempts are bounded."""
    task = started("guest")
    for number in (1, 2, 3):
        granted(task, epoch=number)
        task.end_stage("guest", number, at=NOW, is_failed=True, is_retryable=True, reason=f"no agent {number}")
    assert state(task) == "reporting"
    assert (task.outcome, task.outcome_reason) == ("failed", "no agent 3")


@pytest.mark.promise("A4")
def test_a_lease_at_its_hard_deadline_is_a_timed_out_task() -> None:
    """The host's deadline allows no further attempt."""
    task = granted(started("guest"))
    task.lose_machine(expired(task, "deadline"), NOW)
    assert (task.outcome, task.ended_by) == ("timed_out", "timeout")


@pytest.mark.promise("B1a", "G1")
def test_cancelling_while_queued_ends_the_task_without_a_machine() -> None:
    """A task that never had a machine owes none."""
    task = started("static", "guest", "post")
    task.cancel("ana", "", NOW)
    task.end_stage("static", 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.seal("unknown", 0, NOW)
    assert (state(task), task.machine) == ("cancelled", "none")


@pytest.mark.promise("B1a", "P9")
def test_cancelling_while_a_machine_is_prepared_waits_until_it_is_clean_again() -> None:
    """The machine that comes too late is given back before the task ends."""
    task = started("guest")
    task.match("linux-1", "local", NOW)
    task.cancel("ana", "", NOW)
    assert state(task) == "preparing"
    said(task)
    task.grant(leased(task), NOW)
    assert any(isinstance(message, ReleaseMachine) for message in said(task))
    task.seal("unknown", 0, NOW)
    assert state(task) == "reporting"
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert state(task) == "cancelled"


def test_cancelling_a_task_that_is_over_is_refused_with_its_state() -> None:
    """Nothing changes after the end."""
    task = finish(granted(started("static", "guest", "post")))
    with pytest.raises(NotPossible, match="already completed"):
        task.cancel("ana", "", NOW)


@pytest.mark.promise("G4")
def test_a_late_word_about_an_earlier_attempt_changes_nothing() -> None:
    """Facts carry their attempt."""
    task = granted(started("guest"), epoch=1)
    task.end_stage("guest", 1, at=NOW, is_failed=True, is_retryable=True, reason="lost")
    granted(task, epoch=2)
    version = task.version
    task.end_stage("guest", 1, at=NOW, result_ids=("res_" + "2" * 32,))
    assert task.version == version


def test_a_refused_match_returns_the_task_to_the_queue() -> None:
    """Somebody else was faster; nothing is lost."""
    task = started("guest")
    task.match("linux-1", "local", NOW)
    task.refuse_match(task.operation_id, "machine linux-1 is cleaning", NOW)
    assert state(task) == "queued"
    task.match("linux-1", "local", NOW)
    order = next(message for message in reversed(said(task)) if isinstance(message, LeaseMachine))
    assert order.operation_id == task.operation_id


def test_the_report_names_every_result_and_error() -> None:
    """The order to seal carries what the stages brought."""
    task = granted(started("static", "guest"))
    task.end_stage("static", 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.end_stage("guest", 1, at=NOW, result_ids=("res_" + "2" * 32,))
    order = next(message for message in said(task) if isinstance(message, SealReport))
    assert order.result_ids == ("res_" + "1" * 32, "res_" + "2" * 32)


@pytest.mark.promise("G8")
def test_a_report_without_all_its_results_is_a_failed_task() -> None:
    """A result is durable, or the task is not complete."""
    task = granted(started("guest"))
    task.end_stage("guest", 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.seal("benign", 0, NOW, missing_results=1)
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert state(task) == "failed"
    assert task.outcome_reason == "1 results were lost; the report names them"


def test_a_guest_stage_that_has_nothing_to_do_is_skipped_with_its_reason_and_the_task_is_completed() -> None:
    """It leaves the queue; what the other stages brought is the evidence, and the reason is an error of the task."""
    task = started("static", "guest", "post")
    task.skip_stage("guest", "an archive is not run", NOW)
    assert not task.wants_machine
    for stage in ("static", "post"):
        task.end_stage(stage, 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.seal("unknown", 0, NOW)
    assert (state(task), task.machine, task.stages["guest"]) == ("completed", "none", "skipped")
    assert [(error.outcome, error.reason) for error in task.errors] == [("skipped", "an archive is not run")]


@pytest.mark.promise("P15")
def test_a_verdict_that_changes_after_the_end_is_shown_and_ends_nothing_again() -> None:
    """A child was judged: whichever word comes last, the highest revision counts."""
    task = finish(granted(started("static", "guest", "post")))
    said(task)
    task.change_verdict("malicious", 70, 2, NOW)
    task.change_verdict("suspicious", 30, 1, NOW)
    assert (state(task), task.verdict, task.score) == ("completed", "malicious", 70)
    assert said(task) == []


def test_a_verdict_that_changed_before_its_report_was_heard_of_stays() -> None:
    """The two words may come in either order."""
    task = granted(started("guest"))
    task.change_verdict("malicious", 70, 1, NOW)
    assert task.verdict is None
    task.end_stage("guest", 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.change_verdict("malicious", 70, 1, NOW)
    task.seal("unknown", 0, NOW)
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert (state(task), str(task.verdict)) == ("completed", "malicious")
