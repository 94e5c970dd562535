"""Whatever a task came to, everything that is said of it fits into messages, and what is left out is counted."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.blobs import BlobRef
from contracts.envelope import Envelope, Message
from contracts.fitting import shortened
from contracts.ids import derived
from contracts.intake import TaskSubmitted
from contracts.limits import ATTEMPTS_MAX, PLAN_MAX_BYTES, RESULTS_NAMED_MAX, RUNS_PER_TASK_MAX
from contracts.planning import Plan
from contracts.plugins import PluginManifest, RunError
from contracts.scheduler import NameResults, RunStage, SealReport, TaskPlanned
from contracts.submission import AnalysisRequest, Parentage, SampleRef
from services.scheduler.announcements import announce
from services.scheduler.domain.task import Task
from services.scheduler.policy.planning import PlanRefused, plan
from tests.unit.scheduler.tasks import NOW, granted

REQUEST_MAX_BYTES = 20 * 1024  # what intake lets through
NASTY = "\x01"
"""Takes six bytes of JSON, more than any other character."""
NAME = NASTY * 255


def request(**changes: Any) -> AnalysisRequest:
    """The largest that intake lets through."""
    small = AnalysisRequest.model_validate({"plugins": [{"name": "a" * 41, "config": {"x": ""}}], **changes})
    filling = "x" * (REQUEST_MAX_BYTES - len(small.model_dump_json().encode()))
    return AnalysisRequest.model_validate({"plugins": [{"name": "a" * 41, "config": {"x": filling}}], **changes})


def catalogue(count: int, *stages: str) -> dict[str, PluginManifest]:
    """So many plugins, each with the longest name, version and digest; none may run beside another."""
    names = ["a" * 41, *(f"{'b' * 37}{number:04}" for number in range(1, count))]
    version = "99999.99999.99999-" + "r" * 40
    fields = {"version": version, "digest": "d" * 64, "description": "x", "kind": "host", "context": "exclusive"}
    return {name: PluginManifest.model_validate({"name": name, "stages": stages, **fields}) for name in names}


def size_bytes(message: Message) -> int:
    """What it takes on the bus. Raises EnvelopeError over the limit."""
    envelope = Envelope.wrap(
        message,
        message_id="m" * 200,
        source="scheduler",
        at=NOW,
        correlation_id="c" * 200,
        causation_id="c" * 200,
        sequence=10**19,
        traceparent="t" * 60,
    )
    return len(envelope.to_json())


def submitted(asked: AnalysisRequest) -> Task:
    """A task of which everything has the longest name."""
    sample = SampleRef(blob=BlobRef(sha256="a" * 64, size_bytes=2**40), name=NAME)
    found = Parentage(task_id=derived("tsk", "p"), depth=1, result_id=derived("res", "p"), plugin="a" * 41, name=NAME)
    fact = TaskSubmitted(
        task_id=derived("tsk", "one"),
        submission_id=derived("sub", "one"),
        owner="o" * 255,
        sample=sample,
        request=asked,
        parent=found,
    )
    return Task.submit(fact, NOW)


def said(task: Task) -> Iterator[Message]:
    """Everything that follows from what happened to the task; its size is looked at."""
    for event in task.collect_events():
        for message in announce(event, task):
            size_bytes(message)
            yield message


@pytest.mark.promise("D2")
def test_a_plan_of_more_runs_than_a_task_may_have_is_refused_with_what_to_do() -> None:
    """Every plugin that applies is too many; some of them by name are not."""
    plugins = catalogue(RUNS_PER_TASK_MAX + 1, "static")
    with pytest.raises(PlanRefused, match=rf"{RUNS_PER_TASK_MAX + 1} plugin runs .* name the plugins"):
        plan(AnalysisRequest(), plugins, platform="linux")
    few = AnalysisRequest.model_validate({"plugins": [{"name": name} for name in list(plugins)[:3]]})
    assert len(plan(few, plugins, platform="linux").runs) == 3


@pytest.mark.promise("D2")
def test_a_plan_that_repeats_a_long_configuration_too_often_is_refused_with_what_to_do() -> None:
    """Each stage of a plugin has its own copy."""
    plugins = catalogue(1, "static", "post")
    with pytest.raises(PlanRefused, match=rf"at most {PLAN_MAX_BYTES}: shorten the configuration"):
        plan(request(), plugins, platform="linux")
    assert len(plan(request(), catalogue(1, "static"), platform="linux").runs) == 1


@pytest.mark.parametrize(
    ("asked", "plugins"),
    [
        (AnalysisRequest(), catalogue(RUNS_PER_TASK_MAX, "static")),
        (AnalysisRequest(), catalogue(RUNS_PER_TASK_MAX // 3, "static", "guest", "post")),
        (request(), catalogue(1, "static")),
    ],
)
def test_the_largest_plan_is_announced_and_ordered(asked: AnalysisRequest, plugins: dict[str, PluginManifest]) -> None:
    """With the largest request beside it."""
    made = plan(asked, plugins, platform="linux")
    task = submitted(request())
    task.start(made, "a machine", NOW)
    messages = list(said(task))
    assert [message.plan for message in messages if isinstance(message, TaskPlanned)] == [made]
    assert isinstance(messages[-1], RunStage)


reasons = st.sampled_from(["so", "x" * 1000, NASTY * 1000, "\N{PILE OF POO}" * 4000])
errors = st.lists(reasons, max_size=120).map(
    lambda found: tuple(
        RunError(plugin="a" * 41, stage="static", outcome="timed_out", reason=reason) for reason in found
    )
)
counts = st.integers(0, 1600)


@pytest.mark.promise("P35", "P37", "G8")
@given(first=counts, second=counts, third=counts, failed=errors, reason=reasons)
@settings(max_examples=60, deadline=None)
def test_whatever_a_task_brought_its_report_can_be_ordered(
    first: int, second: int, third: int, failed: tuple[RunError, ...], reason: str
) -> None:
    """Every result is named once and in order, and every error is told or counted."""
    task = submitted(request())
    brought = enumerate((first, second, third))
    named = [tuple(derived("res", stage, number) for number in range(count)) for stage, count in brought]
    task.start(plan(AnalysisRequest(), catalogue(3, "static", "guest", "post"), platform="linux"), "a machine", NOW)
    for attempt in range(1, ATTEMPTS_MAX):
        granted(task, epoch=2 * attempt)
        task.end_stage("guest", attempt, at=NOW, is_failed=True, is_retryable=True, reason=reason, errors=failed)
    granted(task, epoch=2 * ATTEMPTS_MAX)
    task.end_stage("static", 1, at=NOW, result_ids=named[0], errors=failed)
    task.end_stage("guest", ATTEMPTS_MAX, at=NOW, is_failed=True, reason=reason, result_ids=named[1], errors=failed)
    task.end_stage("post", 1, at=NOW, result_ids=named[2], errors=failed)
    messages = list(said(task))
    order = next(message for message in messages if isinstance(message, SealReport))
    beside = [message for message in messages if isinstance(message, NameResults)]
    assert messages.index(order) == messages.index(beside[-1]) + 1 if beside else order.more_results == 0
    assert [message.part for message in beside] == list(range(1, len(beside) + 1))
    others = tuple(result_id for message in beside for result_id in message.result_ids)
    assert len(others) == order.more_results
    assert [*order.result_ids, *others] == [result_id for ids in named for result_id in ids]
    told, more = list(order.errors), 0
    if told and " more errors of this task" in told[-1].reason:
        more = int(told.pop().reason.split()[0])
    assert len(told) + more == len(task.errors)
    assert [error.plugin for error in told] == [error.plugin for error in task.errors[: len(told)]]
    assert len(order.attempt_reasons) == len(order.lost_attempts) == ATTEMPTS_MAX - 1
    for lost in order.lost_attempts:
        assert len(lost.errors) + lost.errors_left_out == len(failed)
        assert lost.errors or not failed


def test_a_full_message_of_names_fits() -> None:
    """As many as one may name."""
    named = tuple(derived("res", number) for number in range(RESULTS_NAMED_MAX))
    assert size_bytes(NameResults(task_id=derived("tsk", "x"), part=1, result_ids=named))


@given(text=st.text(), max_bytes=st.integers(40, 200))
def test_a_text_that_is_cut_says_how_much_is_left_out(text: str, max_bytes: int) -> None:
    """And is no longer than it may be."""
    short = shortened(text, max_bytes)
    assert len(short.encode()) <= max_bytes
    if short != text:
        kept, _, words = short.rpartition(" [")
        assert text.startswith(kept)
        assert words == f"{len(text) - len(kept)} characters more]"


def test_no_plan_of_an_earlier_release_is_needed_for_a_report() -> None:
    """The order to seal carries none: the room is for what the report is made from."""
    task = submitted(request())
    task.start(plan(AnalysisRequest(), catalogue(RUNS_PER_TASK_MAX, "static"), platform="linux"), "a machine", NOW)
    task.end_stage("static", 1, at=NOW, result_ids=(derived("res", 1),))
    assert next(message for message in said(task) if isinstance(message, SealReport)).plan == Plan(stages=())
