"""The task aggregate and its machines: whose they are, and when one is waited for."""

import pytest

from contracts.scheduler import ReleaseMachine
from tests.unit.scheduler.task_course import said, state
from tests.unit.scheduler.tasks import NOW, expired, granted, leased, started


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
