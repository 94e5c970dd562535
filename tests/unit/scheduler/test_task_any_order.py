"""The task aggregate under any fact at any moment."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.scheduler.tasks import NOW, expired, leased, started


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
