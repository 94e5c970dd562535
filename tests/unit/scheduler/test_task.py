"""The task aggregate: what follows from what."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contracts.envelope import Message
from contracts.scheduler import LeaseMachine, ReleaseMachine, RunStage, SealReport, TaskCompleted
from services.scheduler.announcements import announce
from services.scheduler.domain.task import NotPossible, Task
from tests.unit.scheduler.tasks import NOW, expired, granted, leased, started


def said(task: Task) -> list[Message]:
    """What the task's new events announce."""
    return [message for event in task.collect_events() for message in announce(event, task)]


def state(task: Task) -> str:
    """The task's state, read anew."""
    return task.state


def finish(task: Task, *, stages: tuple[str, ...] = ("static", "guest", "post")) -> Task:
    """Every stage ends well, the report is sealed, the machine is clean."""
    for stage in stages:
        task.end_stage(stage, 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.seal("benign", 0, NOW)
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    return task


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


@pytest.mark.promise("P15", "P16")
def test_a_machine_that_is_clean_before_its_loss_is_heard_is_not_waited_for() -> None:
    """The lost lease is told late: the machine is clean by then and nobody will say so again."""
    task = granted(started("guest"))
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert (state(task), task.machine) == ("running", "leased")
    task.lose_machine(expired(task, "deadline"), NOW)
    assert (state(task), task.machine) == ("reporting", "clean")
    task.seal("unknown", 0, NOW)
    assert state(task) == "timed_out"


@pytest.mark.promise("P15", "P16")
def test_a_lease_that_is_heard_of_after_its_machine_was_cleaned_is_not_waited_for() -> None:
    """The grant went round by the retry queue: its loss and the clean machine came first."""
    task = started("guest")
    task.match("linux-1", "local", NOW)
    task.lose_machine(expired(task), NOW)
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    task.grant(leased(task), NOW)
    assert (state(task), task.reverting) == ("queued", set())
    task.cancel("ana", "", NOW)
    task.seal("unknown", 0, NOW)
    assert state(task) == "cancelled"


@pytest.mark.promise("P15", "P16")
def test_a_machine_that_was_clean_before_the_lease_is_waited_for_after_it() -> None:
    """Word of an older epoch says nothing about the lease that came after it."""
    task = granted(started("guest"))
    task.machine_left("linux-1", "clean", NOW, epoch=3)
    task.end_stage("guest", 1, at=NOW, result_ids=("res_" + "1" * 32,))
    assert (task.machine, task.reverting) == ("reverting", {"linux-1"})


@pytest.mark.promise("P8", "P9", "P15")
def test_word_that_a_machine_is_clean_of_an_earlier_lease_is_no_word_of_the_present_one() -> None:
    """The same task may have the same machine twice, and what was said of the first time may be heard again."""
    task = granted(started("guest"), epoch=4)
    task.lose_machine(expired(task, epoch=4), NOW)
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    granted(task, epoch=6)
    task.end_stage("guest", 2, at=NOW, result_ids=("res_" + "1" * 32,))
    task.seal("benign", 0, NOW)
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert (state(task), task.machine) == ("reporting", "reverting")
    task.machine_left("linux-1", "clean", NOW, epoch=7)
    assert (state(task), task.machine) == ("completed", "clean")


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


@pytest.mark.promise("P9")
def test_a_machine_that_was_promised_to_a_stage_with_nothing_to_do_goes_back_unused() -> None:
    """Neither its grant nor its loss begins the stage after all."""
    task = started("static", "guest")
    task.match("linux-1", "local", NOW)
    task.skip_stage("guest", "an archive is not run", NOW)
    said(task)
    task.grant(leased(task), NOW)
    assert [type(message) for message in said(task)] == [ReleaseMachine]
    task.lose_machine(expired(task), NOW)
    task.end_stage("static", 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.seal("unknown", 0, NOW)
    assert state(task) == "reporting"
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert (state(task), task.attempts) == ("completed", 0)


def test_a_machine_that_a_stage_with_nothing_to_do_holds_goes_back_at_once() -> None:
    """The word came from the stage itself."""
    task = granted(started("static", "guest"))
    said(task)
    task.skip_stage("guest", "an archive is not run", NOW)
    assert [type(message) for message in said(task)] == [ReleaseMachine]
    task.skip_stage("guest", "an archive is not run", NOW)
    assert said(task) == []


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


class TaskMachine(RuleBasedStateMachine):
    """Any fact at any moment, repeated and reordered: the aggregate stays consistent and replays to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.task = started("static", "guest", "post")
        self.recorded: list[Any] = []
        self.epoch = 0
        self.ends = 0

    def drain(self) -> None:
        """Record what happened, counting ends."""
        events = list(self.task.collect_events())
        self.recorded.extend(events)
        self.ends += sum(type(event).__name__ in {"Completed", "Failed", "TimedOut", "Cancelled"} for event in events)

    @precondition(lambda self: self.task.wants_machine)
    @rule()
    def match(self) -> None:
        """A machine is chosen."""
        self.epoch += 2
        self.task.match("linux-1", "local", NOW)

    @rule()
    def grant(self) -> None:
        """The machine is leased, perhaps for nobody."""
        self.task.grant(leased(self.task, self.epoch), NOW)

    @rule()
    def refuse(self) -> None:
        """The machine was not to be had."""
        self.task.refuse_match(self.task.operation_id, "busy", NOW)

    @rule()
    def expire(self) -> None:
        """The lease is lost."""
        self.task.lose_machine(expired(self.task, epoch=self.epoch), NOW)

    @rule()
    def stage_ends(self) -> None:
        """The first running stage ends well."""
        for stage in self.task.running_stages()[:1]:
            self.task.end_stage(stage, self.task.attempt_of(stage), at=NOW, result_ids=("res_" + "3" * 32,))

    @rule()
    def stage_fails(self) -> None:
        """The last running stage fails for now."""
        for stage in self.task.running_stages()[-1:]:
            self.task.end_stage(
                stage, self.task.attempt_of(stage), at=NOW, is_failed=True, is_retryable=True, reason="lost"
            )

    @rule()
    def guest_is_skipped(self) -> None:
        """The guest stage has nothing to do."""
        self.task.skip_stage("guest", "an archive is not run", NOW)

    @rule()
    def cancel(self) -> None:
        """Somebody cancels."""
        if not self.task.is_over and self.task.report_ready_at is None:
            self.task.cancel("ana", "", NOW)

    @rule()
    def seal(self) -> None:
        """The report is ready."""
        self.task.seal("benign", 0, NOW)

    @rule()
    def verdict_changes(self) -> None:
        """What is inside the sample was judged."""
        self.task.change_verdict("malicious", 70, self.task.verdict_revision + 1, NOW)

    @rule()
    def clean(self) -> None:
        """The machine is clean."""
        self.task.machine_left("linux-1", "clean", NOW, epoch=self.epoch + 1)

    @invariant()
    def it_ends_once_and_owes_no_machine(self) -> None:
        """An ended task holds no machine and waits for none to be clean."""
        self.drain()
        assert self.ends <= 1
        if self.task.is_over:
            assert self.task.guest is None
            assert not self.task.reverting
            assert not self.task.running_stages()

    @invariant()
    def replay_gives_the_same_task(self) -> None:
        """What is in memory is what the events say."""
        copy: Any = None
        for event in self.recorded:
            copy = event.mutate(copy)
        assert vars(copy) == {**vars(self.task), "_pending_events": []}


TaskMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAnyOrderOfFacts = pytest.mark.promise("P15", "P16", "P20")(TaskMachine.TestCase)


@pytest.mark.promise("P9")
def test_a_machine_that_comes_too_late_is_given_back_and_the_one_in_use_is_kept() -> None:
    """The task runs on its second machine when a third is granted after all: giving that back ends nothing."""
    task = granted(started("guest"))
    other = leased(task, epoch=7).model_copy(update={"machine_id": "linux-2"})
    lease = other.lease.model_copy(update={"machine_id": "linux-2", "lease_id": "lea_" + "7" * 32})
    task.grant(other.model_copy(update={"lease": lease}), NOW)
    assert task.guest is not None
    assert task.reverting == {"linux-2"}
    task.end_stage("guest", 1, at=NOW, result_ids=("res_" + "1" * 32,))
    task.seal("unknown", 0, NOW)
    task.machine_left("linux-2", "clean", NOW, epoch=8)
    assert not task.is_over
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    assert task.state == "completed"


@pytest.mark.promise("P2", "P15")
def test_a_lease_that_ended_is_not_taken_for_the_one_that_is_awaited() -> None:
    """The grant of a lost lease is heard after its loss, while the same machine is awaited again."""
    task = started("guest")
    task.match("linux-1", "local", NOW)
    task.lose_machine(expired(task), NOW)
    task.machine_left("linux-1", "clean", NOW, epoch=5)
    task.match("linux-1", "local", NOW)
    task.grant(leased(task, epoch=4), NOW)
    assert (task.state, task.guest) == ("preparing", None)
    task.lose_machine(expired(task), NOW)
    assert task.state == "preparing"
    task.grant(leased(task, epoch=6), NOW)
    assert task.guest is not None
