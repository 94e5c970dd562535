"""The contract of a task's end, whatever the order, repetition or loss of what it is told."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contracts.envelope import Message
from contracts.machines import LeaseExpired, MachineLeased
from contracts.planning import Budgets
from contracts.scheduler import (
    CancelStage,
    LeaseMachine,
    ReleaseMachine,
    RunStage,
    SealReport,
    TaskCompleted,
    TaskEnded,
    TaskUnserviceable,
)
from services.scheduler.announcements import again, announce
from services.scheduler.domain.task import Task
from services.scheduler.domain.task.waits import waits
from tests.unit.scheduler.tasks import NOW, expired, leased, planned, submission

PLANS = (("static", "guest", "post"), ("guest",), ("static",), ("guest", "post"))
ROUNDS_MAX = 60
Fact = Callable[[Task, datetime], None]


class World(RuleBasedStateMachine):
    """One task, one machine, and everybody who answers the task's orders. Facts wait in a bag.

    Any of them may come next, come again, or never come; any order may be given again; any budget may end. At the end
    everybody answers everything, and the task must come to its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.bag: list[Fact] = []
        self.ends: list[Message] = []
        self.epoch = 3
        self.leases: dict[str, MachineLeased] = {}
        self.current: MachineLeased | None = None
        self.told: set[str] = set()
        self.returned: set[str] = set()
        self.is_sealed = False
        self.task = Task.submit(submission(), NOW)

    @initialize(plan=st.sampled_from(PLANS))
    def plan(self, plan: tuple[str, ...]) -> None:
        """The task begins."""
        self.task.start(planned(*plan), "a machine", self.now, Budgets())
        self.react()

    def react(self) -> None:
        """Whoever is ordered something knows what to say."""
        for event in self.task.collect_events():
            for message in announce(event, self.task):
                self.hear(message)

    def hear(self, message: Message) -> None:
        """One message of the task."""
        match message:
            case LeaseMachine():
                self.lease(message)
            case RunStage():
                self.bag += stage_facts(message.stage.name, message.attempt)
            case CancelStage():
                self.bag.append(ended(message.stage, message.attempt))
            case ReleaseMachine():
                self.release(message)
            case SealReport():
                self.bag += [self.sealed(0), self.sealed(1)]
            case TaskEnded() | TaskUnserviceable():
                self.ends.append(message)

    def lease(self, order: LeaseMachine) -> None:
        """The machine is the task's, unless it is somebody's already; a repeated order has its first outcome."""
        if order.operation_id not in self.leases and self.current is None:
            self.epoch += 1
            self.leases[order.operation_id] = self.current = leased(self.task, self.epoch)
        fact = self.leases.get(order.operation_id)
        if fact is None:
            self.bag.append(lambda task, at: task.refuse_match(order.operation_id, "it is leased", at))
        else:
            self.bag.append(lambda _task, at: self.grant(fact, at))

    def grant(self, fact: MachineLeased, at: datetime) -> None:
        """The task is told; one that is over gives it back by the handler's hand."""
        self.told.add(fact.lease.lease_id)
        if self.task.is_over:
            self.returned.add(fact.lease.lease_id)
        else:
            self.task.grant(fact, at)

    def release(self, order: ReleaseMachine) -> None:
        """The lease is over, and the machine is clean or out of the pool soon."""
        self.returned.add(order.lease_id)
        if self.current is not None and self.current.lease.lease_id == order.lease_id:
            self.end_lease()
        lease = next(one for one in self.leases.values() if one.lease.lease_id == order.lease_id)
        for condition in ("clean", "quarantined"):
            self.bag.append(left(condition, lease.epoch + 1))

    def end_lease(self) -> None:
        """A new epoch: nobody's. The lease is over, whoever may still believe in it."""
        if self.current is not None:
            self.returned.add(self.current.lease.lease_id)
        self.epoch += 1
        self.current = None

    def sealed(self, missing: int) -> Fact:
        """The report can be read."""

        def fact(task: Task, at: datetime) -> None:
            self.is_sealed = True
            task.seal("benign", 0, at, missing_results=missing)

        return fact

    def deliver(self, index: int) -> None:
        """That fact of the bag comes, and stays there to come again."""
        self.bag[index % len(self.bag)](self.task, self.now)
        self.react()

    @precondition(lambda self: self.bag)
    @rule(index=st.integers(0, 1000))
    def something_comes(self, index: int) -> None:
        """For the first time, or again."""
        self.deliver(index)

    @precondition(lambda self: self.bag)
    @rule(index=st.integers(0, 1000))
    def something_is_lost(self, index: int) -> None:
        """It will not come, unless it is said again."""
        self.bag.pop(index % len(self.bag))

    @rule(seconds=st.sampled_from([1, 30, 61, 200, 1000]))
    def time_passes(self, seconds: int) -> None:
        """Orders are given again, and budgets end."""
        self.now += timedelta(seconds=seconds)
        for wait in waits(self.task):
            if wait.is_overdue(self.now):
                self.task.overrun(wait.what, self.now)
                self.react()
            elif wait.is_silent(self.now):
                self.repeat(wait)

    def repeat(self, wait: Any) -> None:
        """The order is given again."""
        for message in list(again(wait, self.task, self.now)):
            self.hear(message)

    @precondition(lambda self: self.task.wants_machine)
    @rule()
    def matched(self) -> None:
        """The machine is chosen, whether it is free or not."""
        self.task.match("linux-1", "local", self.now)
        self.react()

    @precondition(lambda self: self.current is not None)
    @rule(cause=st.sampled_from(["guest_lost", "deadline", "collection_deadline", "lease_lost", "isolation_breached"]))
    def lease_ends(self, cause: str) -> None:
        """Without the task's word; the task may hear of it, sooner or later."""
        assert self.current is not None
        fact: LeaseExpired = expired(self.task, cause, self.current.epoch)
        self.end_lease()
        self.bag += [lambda task, at: task.lose_machine(fact, at), left("clean", fact.epoch)]

    @rule()
    def seen_at_a_later_epoch(self) -> None:
        """Whoever runs on an older lease has lost it."""
        self.task.lose_lease(self.epoch, "another owner", self.now)
        self.react()

    @precondition(lambda self: not self.task.is_over and self.task.report_ready_at is None)
    @rule()
    def cancelled(self) -> None:
        """Somebody wants it to end."""
        self.task.cancel("ana", "", self.now)
        self.react()

    @rule()
    def stranded(self) -> None:
        """The last machine is retired."""
        self.task.strand("no machine fits", self.now)
        self.react()

    @invariant()
    def it_ends_once(self) -> None:
        """One terminal fact, and none before the end."""
        assert len(self.ends) == int(self.task.is_over)

    @invariant()
    def an_ended_task_is_sealed_and_its_machine_is_clean_or_out(self) -> None:
        """Completed means both; every other end as well, because no end leaves a machine behind."""
        if self.task.is_over:
            assert self.is_sealed
            assert self.task.machine in ("none", "clean", "quarantined")
            assert not self.task.running_stages()
        if any(isinstance(end, TaskCompleted) for end in self.ends):
            assert self.task.stages.get("guest", "completed") == "completed"
            assert self.task.result_ids

    @invariant()
    def no_lease_is_kept_that_is_not_used(self) -> None:
        """A lease that the task was told of is the one that it runs on, or is over."""
        held = {self.task.guest.lease.lease_id} if self.task.guest else set()
        assert self.told - self.returned <= held

    def teardown(self) -> None:
        """Everybody answers, over and over: the task comes to its end, and owes nobody a machine."""
        for _ in range(ROUNDS_MAX):
            if self.task.is_over:
                break
            if self.task.wants_machine:
                if self.current is not None:
                    self.end_lease()  # nobody was told of it, or heeds it: the host's own deadline ends it
                self.matched()
            for index in range(len(self.bag)):
                self.deliver(index)
            self.bag.clear()
            for wait in waits(self.task):
                self.repeat(wait)
        assert self.task.is_over, (self.task.state, self.task.why, waits(self.task))
        self.it_ends_once()
        self.an_ended_task_is_sealed_and_its_machine_is_clean_or_out()
        assert self.told <= self.returned


def stage_facts(stage: str, attempt: int) -> list[Fact]:
    """Everything that may be said of a stage."""
    facts: list[Fact] = [
        lambda task, at: task.begin_stage(stage, attempt, at),
        ended(stage, attempt, ("res_" + "1" * 32,)),
        lambda task, at: task.end_stage(stage, attempt, at=at, is_failed=True, is_retryable=True, reason="lost"),
        lambda task, at: task.end_stage(stage, attempt, at=at, is_failed=True, reason="broken"),
    ]
    if stage == "guest":
        facts += [
            lambda task, at: task.begin_observation(attempt, at),
            lambda task, at: task.end_observation(attempt, "window", at),
        ]
    return facts


def ended(stage: str, attempt: int, result_ids: tuple[str, ...] = ()) -> Fact:
    """The stage ran."""
    return lambda task, at: task.end_stage(stage, attempt, at=at, result_ids=result_ids)


def left(condition: str, epoch: int) -> Fact:
    """The machine is clean, or out of the pool."""
    return lambda task, at: task.machine_left("linux-1", condition, at, epoch=epoch)


World.TestCase.settings = settings(max_examples=400, stateful_step_count=30, deadline=None)
TestTheContractOfTheEnd = pytest.mark.promise("P9", "P15", "P20", "B1b", "B2", "G8")(World.TestCase)
