"""Each phase has a budget of its own: what it cost is recorded, and what follows when it is spent."""

from datetime import datetime, timedelta

import pytest

from contracts.envelope import Message
from contracts.planning import Budgets
from contracts.scheduler import (
    CancelStage,
    LeaseMachine,
    ReleaseMachine,
    RunStage,
    SealReport,
    TaskTimedOut,
    TaskUnserviceable,
)
from services.scheduler.announcements import again, announce
from services.scheduler.domain.task import Task
from services.scheduler.domain.task.waits import LEASE_SLACK_S, next_look_at, waits
from tests.unit.scheduler.tasks import NOW, expired, leased, planned, submission

BUDGETS = Budgets(queue_s=1000, boot_s=100, grace_s=20, collection_s=40, host_plugins_s=200, cleanup_s=50)
RESULT = ("res_" + "1" * 32,)


def at(seconds: float) -> datetime:
    """So many seconds after the submission."""
    return NOW + timedelta(seconds=seconds)


def begun(*stages: str, timeout_s: int = 30) -> Task:
    """A task with these budgets, just begun."""
    task = Task.submit(submission(timeout_s=timeout_s), NOW)
    task.start(planned(*stages), "a machine of profile linux", NOW, BUDGETS)
    return task


def said(task: Task) -> list[Message]:
    """What the task's new events announce."""
    return [message for event in task.collect_events() for message in announce(event, task)]


def spent(task: Task) -> dict[str, float]:
    """Seconds by phase, those that took any."""
    return {cost.phase: cost.spent_s for cost in task.phases() if cost.spent_s}


def pass_deadline(task: Task, what: str) -> list[Message]:
    """The wait's deadline passes, with nobody having said anything; what is said then."""
    said(task)
    wait = next(wait for wait in waits(task) if wait.what == what)
    assert wait.deadline_at is not None
    assert not wait.is_overdue(wait.deadline_at - timedelta(seconds=0.001))
    assert wait.is_overdue(wait.deadline_at)
    task.overrun(what, wait.deadline_at)
    return said(task)


def whole_run() -> Task:
    """A task through all of its phases, each of another length."""
    task = begun("static", "guest", "post")
    task.begin_stage("static", 1, at(1))
    task.end_stage("static", 1, at=at(4), result_ids=RESULT)
    task.match("linux-1", "local", at(10))
    task.grant(leased(task), at(15))
    task.begin_observation(1, at(17))
    task.end_observation(1, "plugin", at(52))
    task.end_stage("guest", 1, at=at(57), result_ids=RESULT, ended_by="plugin")
    task.begin_stage("post", 1, at(60))
    task.end_stage("post", 1, at=at(62), result_ids=RESULT)
    task.seal("benign", 0, at(63))
    task.machine_left("linux-1", "clean", at(65), epoch=5)
    return task


@pytest.mark.promise("A4")
def test_each_phase_is_recorded_by_itself() -> None:
    """Seven phases; what was watched beyond the user's timeout is grace, what was cleaned is nobody's timeout."""
    task = whole_run()
    assert task.state == "completed"
    assert spent(task) == {
        "queue": 10.0,
        "boot": 7.0,
        "observation": 30.0,
        "grace": 5.0,
        "collection": 5.0,
        "host_plugins": 5.0,
        "cleanup": 8.0,
    }
    assert {cost.phase: cost.budget_s for cost in task.phases()} == {
        "queue": 1000,
        "boot": 100,
        "observation": 30,
        "grace": 20,
        "collection": 40,
        "host_plugins": 200,
        "cleanup": 50,
    }


def test_a_phase_that_goes_on_is_shown_up_to_now() -> None:
    """What is displayed grows; what is recorded does not change by looking."""
    task = begun("guest")
    shown = {cost.phase: cost.spent_s for cost in task.phases(at(7))}
    assert (shown["queue"], spent(task)) == (7.0, {})


@pytest.mark.promise("A4")
def test_a_lease_is_held_for_what_it_covers_and_no_more() -> None:
    """Boot, the user's timeout, grace, collection: neither the queue nor host plugins nor cleaning."""
    task = begun("guest", timeout_s=77)
    task.match("linux-1", "local", NOW)
    order = next(message for message in said(task) if isinstance(message, LeaseMachine))
    assert order.hold_s == 100 + 77 + 20 + 40


@pytest.mark.promise("A4", "G3")
def test_a_task_that_waited_for_too_long_is_timed_out_and_says_so() -> None:
    """The queue's budget is its own; what needs no machine is still reported."""
    task = begun("guest")
    messages = pass_deadline(task, "queue")
    assert (task.state, task.outcome) == ("reporting", "timed_out")
    assert task.outcome_reason == "no machine was free for 1000 s"
    assert any(isinstance(message, SealReport) for message in messages)
    task.seal("unknown", 0, at(1001))
    assert any(isinstance(message, TaskTimedOut) for message in said(task))
    assert task.ended_by is None


def test_waiting_again_goes_on_with_what_is_left_of_the_budget() -> None:
    """Two waits, one budget."""
    task = begun("guest")
    task.match("linux-1", "local", at(400))
    task.refuse_match(task.operation_id, "it is being cleaned", at(410))
    [wait] = waits(task)
    assert wait.deadline_at == at(410 + 600)


@pytest.mark.promise("G2", "B1b")
def test_a_machine_that_is_not_ready_in_time_costs_an_attempt_and_is_given_back_when_it_comes() -> None:
    """The boot's budget; three times and the task has failed, with every reason."""
    task = begun("guest")
    for number in (1, 2, 3):
        task.match("linux-1", "local", at(1000 * number))
        pass_deadline(task, "lease")
        assert len(task.lost_attempts) == min(number, 2)
    assert (task.outcome, task.lost_attempts[0].reason) == ("failed", "machine linux-1 was not ready within 100 s")
    task.grant(leased(task), at(9000))
    assert any(isinstance(message, ReleaseMachine) for message in said(task))
    assert task.reverting == {"linux-1"}


@pytest.mark.promise("P11", "P32", "B1b")
def test_a_guest_stage_that_nobody_speaks_of_any_more_ends_after_its_lease() -> None:
    """Plugins and machines are both away: the task's own deadline takes the machine back."""
    task = begun("guest")
    task.match("linux-1", "local", at(1))
    task.grant(leased(task), at(2))
    messages = pass_deadline(task, "guest")
    assert any(isinstance(message, ReleaseMachine) for message in messages)
    assert any(isinstance(message, CancelStage) for message in messages)
    assert (task.outcome, task.ended_by) == ("timed_out", "timeout")


def test_collecting_has_a_budget_of_its_own() -> None:
    """It counts from the end of the observation, and comes before the end of the lease."""
    task = begun("guest", timeout_s=3000)
    task.match("linux-1", "local", at(1))
    task.grant(leased(task), at(2))
    task.begin_observation(1, at(3))
    task.end_observation(1, "sample_exit", at(10))
    pass_deadline(task, "guest")
    assert task.outcome_reason == "the evidence was not collected within 40 s"
    assert spent(task)["collection"] == 40.0 + LEASE_SLACK_S


def test_when_collecting_took_too_long_only_the_machine_is_lost() -> None:
    """What came until then is still said, and counts."""
    task = begun("guest")
    task.match("linux-1", "local", at(1))
    task.grant(leased(task), at(2))
    task.end_observation(1, "window", at(33))
    task.lose_machine(expired(task, "collection_deadline"), at(80))
    assert (task.state, task.machine, task.running_stages()) == ("collecting", "reverting", ["guest"])
    task.end_stage("guest", 1, at=at(81), result_ids=RESULT, ended_by="window")
    assert (task.outcome, task.ended_by) == ("completed", "window")


@pytest.mark.promise("P22")
def test_a_sample_that_got_through_the_walls_is_not_tried_on_another_machine() -> None:
    """A breach is the last attempt."""
    task = begun("guest")
    task.match("linux-1", "local", at(1))
    task.grant(leased(task), at(2))
    task.lose_machine(expired(task, "isolation_breached"), at(3))
    assert (task.outcome, task.lost_attempts) == ("failed", [])


def test_a_host_stage_spends_nothing_while_it_waits_for_its_turn() -> None:
    """Thousands may be ordered at once; the budget counts from the first run."""
    task = begun("static")
    [wait] = waits(task)
    assert wait.deadline_at is None
    task.begin_stage("static", 1, at(5000))
    [wait] = waits(task)
    assert wait.deadline_at == at(5200)


def test_a_host_stage_over_its_budget_is_told_to_stop_and_then_ended_without_its_word() -> None:
    """Once to say what it has; after that it has failed."""
    task = begun("static")
    task.begin_stage("static", 1, at(1))
    told = pass_deadline(task, "static")
    assert [type(message) for message in told] == [CancelStage]
    assert task.running_stages() == ["static"]
    pass_deadline(task, "static")
    assert task.outcome_reason == "it took more than 200 s, and did not stop"


@pytest.mark.promise("C5")
def test_how_the_observation_ended_is_said_by_the_guest_stage_alone() -> None:
    """A host stage that was told to stop says `cancelled` of itself, and not of what was observed."""
    task = begun("guest", "post")
    task.match("linux-1", "local", at(1))
    task.grant(leased(task), at(2))
    task.end_stage("guest", 1, at=at(9), result_ids=RESULT, ended_by="sample_exit")
    task.end_stage("post", 1, at=at(300), ended_by="cancelled")
    assert (task.outcome, task.ended_by) == ("completed", "sample_exit")


@pytest.mark.promise("P9", "A4")
def test_cleaning_is_never_skipped_because_it_takes_long() -> None:
    """Its budget is pointed out; the task still waits for the machine."""
    task = begun("guest")
    task.match("linux-1", "local", at(1))
    task.grant(leased(task), at(2))
    task.end_stage("guest", 1, at=at(40), result_ids=RESULT)
    task.seal("benign", 0, at(41))
    assert pass_deadline(task, "release") == []
    assert (task.state, task.why) == ("reporting", "the machine is being cleaned for longer than 50 s")
    assert [wait.deadline_at for wait in waits(task)] == [None]
    task.machine_left("linux-1", "clean", at(500), epoch=5)
    assert task.state == "completed"


@pytest.mark.promise("G1")
@pytest.mark.parametrize("stage", ["static", "guest"])
def test_a_stage_that_does_not_stop_when_it_is_cancelled_does_not_keep_the_task(stage: str) -> None:
    """A minute later the task ends, and takes the machine back."""
    task = begun(stage)
    if stage == "guest":
        task.match("linux-1", "local", at(1))
        task.grant(leased(task), at(2))
    task.cancel("ana", "", at(10))
    messages = pass_deadline(task, stage)
    assert task.outcome == "cancelled"
    assert any(isinstance(message, ReleaseMachine) for message in messages) is (stage == "guest")


@pytest.mark.promise("G3")
def test_a_task_that_no_machine_could_run_any_more_says_so_at_once() -> None:
    """It waited, and its only machine was retired: the report of what needed none follows, and the end says why."""
    task = begun("static", "guest")
    task.end_stage("static", 1, at=at(1), result_ids=RESULT)
    task.strand("no machine fits", at(2))
    assert task.outcome == "unserviceable"
    task.seal("unknown", 0, at(3))
    ends = [message for message in said(task) if isinstance(message, TaskUnserviceable)]
    assert [(end.reason, task.state) for end in ends] == [("no machine fits", "unserviceable")]


def test_a_task_that_has_a_machine_is_not_stranded() -> None:
    """The pool's changes concern those who wait."""
    task = begun("guest")
    task.match("linux-1", "local", at(1))
    version = task.version
    task.strand("no machine fits", at(2))
    assert task.version == version


@pytest.mark.promise("P12", "P17")
def test_every_order_that_is_not_answered_is_given_again() -> None:
    """The same orders, so that whoever did get them does nothing twice."""
    task = begun("static", "guest", "post")
    first = said(task)
    expected: list[tuple[str, type[Message]]] = [("static", RunStage)]
    task.match("linux-1", "local", at(1))
    expected.append(("lease", LeaseMachine))
    first += said(task)
    repeated = {wait.what: list(again(wait, task, at(99))) for wait in waits(task)}
    for what, kind in expected:
        [message] = repeated[what]
        assert isinstance(message, kind)
        assert message in first
    task.grant(leased(task), at(2))
    orders = said(task)
    [guest] = [wait for wait in waits(task) if wait.what == "guest"]
    assert [*again(guest, task, at(99))] == [order for order in orders if isinstance(order, RunStage)]
    task.end_stage("guest", 1, at=at(3), result_ids=RESULT)
    release = next(order for order in said(task) if isinstance(order, ReleaseMachine))
    [wait] = [wait for wait in waits(task) if wait.what == "release"]
    assert [*again(wait, task, at(99))] == [release]


@pytest.mark.promise("P12")
def test_a_report_that_is_not_sealed_is_ordered_again_with_what_it_may_be_waiting_for() -> None:
    """A result may have been said and lost: the stages are ordered again too, and say again what they said."""
    task = begun("static")
    task.end_stage("static", 1, at=at(1), result_ids=RESULT)
    [wait] = waits(task)
    assert wait.what == "seal"
    assert [type(message) for message in again(wait, task, at(99))] == [SealReport, RunStage]


def test_a_cancelled_stage_is_ordered_and_cancelled_again() -> None:
    """Both words may be lost: without the order there would be nobody to say that it stopped."""
    task = begun("static")
    task.cancel("ana", "", at(1))
    [wait] = waits(task)
    assert [type(message) for message in again(wait, task, at(99))] == [RunStage, CancelStage]


def test_silence_is_looked_into_after_a_minute_and_then_less_and_less_often() -> None:
    """60 s, then steps that double up to ten minutes; never at an instant that is past."""
    task = begun("static")
    instants, now = [], at(0)
    for _ in range(6):
        now = next_look_at(task, now) or now
        instants.append((now - NOW).total_seconds())
    assert instants == [60, 180, 420, 900, 1500, 2100]


def test_a_task_that_is_over_waits_for_nothing() -> None:
    """Nothing is due any more."""
    assert next_look_at(whole_run(), at(1000)) is None
