"""Files found inside a sample become tasks of its submission: once, within limits, and what does not says why."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.blobs import BlobRef
from contracts.ids import derived
from contracts.intake import ChildrenChosen, TaskSubmitted
from contracts.limits import CHILDREN_FOUND_MAX, MESSAGE_MAX_BYTES
from contracts.plugins import ChildrenFound, FoundChild
from contracts.submission import AnalysisRequest, ChildrenChoice, SampleRef
from services.chassis.run import no_announcements
from services.chassis.unit import Cause, Unit
from services.intake.app import Submission, SubmittedTask, choose_children
from services.intake.domain.choosing import ChildLimits, choose
from services.intake.domain.family import Family, Member
from services.intake.domain.kinds import KINDS, kind_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SUBMISSION = derived("sub", "one")
ROOT = derived("tsk", "root")
OTHER_ROOT = derived("tsk", "other")
SHELL = ("shell", "linux", "text/x-shellscript")
TEXT = ("generic", None, "text/plain")


def file(number: int, kind: tuple[str, str | None, str] = SHELL, size_bytes: int = 10, name: str = "") -> FoundChild:
    """A file that was found inside; the same number is the same content."""
    package, platform, mime = kind
    return FoundChild(
        result_id=derived("res", number),
        plugin="archives",
        name=name or f"bin/{number}.sh",
        blob=BlobRef(sha256=f"{number:064x}", size_bytes=size_bytes),
        package=package,
        platform=platform,
        mime=mime,
    )


def submission(**request: Any) -> Submission:
    """A ZIP that was submitted for two profiles."""
    requests = {ROOT: {"profile": "linux", **request}, OTHER_ROOT: {"profile": "other", **request}}
    return Submission(
        submission_id=SUBMISSION,
        owner="ann",
        idempotency_key=None,
        fingerprint="",
        sample=SampleRef(blob=BlobRef(sha256=f"{0:064x}", size_bytes=100), name="a.zip"),
        name_sent="a.zip",
        submitted_at=NOW,
        tasks=tuple(SubmittedTask(task_id, AnalysisRequest(**asked)) for task_id, asked in requests.items()),
    )


def fact(*children: FoundChild, task_id: str = ROOT) -> ChildrenFound:
    """They were found inside the task's sample."""
    return ChildrenFound(
        task_id=task_id, attempt=1, stage="static", submission_id=SUBMISSION, children=children, left_out=0
    )


def decided(
    asked: Submission, family: Family, found: ChildrenFound, limits: ChildLimits | None = None, room: int = 1000
) -> Unit:
    """What intake commits when it hears of them."""
    unit = Unit("intake", NOW, uuid4, no_announcements, Cause("msg_1"))
    choose_children(asked, family, found, limits or ChildLimits(), room=room, unit=unit)
    return unit


def said(unit: Unit, kind: type[Any]) -> list[Any]:
    """The unit's messages of that kind."""
    bodies = [json.loads(row.body) for row in unit.outbox]
    return [kind.model_validate(body["data"]) for body in bodies if body["type"] == kind.type_name()]


def reasons(unit: Unit) -> list[str]:
    """Why no task was made, file by file; empty for those that became one."""
    [chosen] = said(unit, ChildrenChosen)
    return [child.reason for child in chosen.children]


@pytest.mark.promise("P15")
def test_a_file_found_inside_is_a_task_of_the_same_submission_and_says_where_it_was_found() -> None:
    """It has the parent's owner, profile and choices, without what was meant for the parent's own bytes."""
    asked = submission(arguments=["-x"], package="archive", password="pw", timeout_s=90, priority=2, tags=["t"])
    unit = decided(asked, asked.family(NOW), fact(file(1, name="a/../b.sh")))
    [task] = said(unit, TaskSubmitted)
    assert (task.task_id, task.owner, task.submission_id) == (derived("tsk", ROOT, f"{1:064x}"), "ann", SUBMISSION)
    assert (task.sample.name, task.sample.blob.sha256) == ("b.sh", f"{1:064x}")
    assert (task.parent.task_id, task.parent.depth, task.parent.plugin) == (ROOT, 1, "archives")
    assert task.parent.name == "a/../b.sh"
    request = task.request
    assert (request.package, request.arguments, request.password) == ("auto", (), None)
    assert (request.profile, request.timeout_s, request.priority, request.tags) == ("linux", 90, 2, ("t",))
    assert [(row.kind, row.key) for row in unit.work] == [("confirm_task", task.task_id)]


@pytest.mark.promise("P15")
def test_the_same_word_twice_makes_no_second_child() -> None:
    """Under another message id it is said again what was decided, for whoever did not hear it."""
    asked = submission()
    family = asked.family(NOW)
    first = decided(asked, family, fact(file(1)))
    again = decided(asked, family, fact(file(1), file(2)))
    assert (again.events, again.work, said(again, TaskSubmitted)) == ([], [], [])
    assert said(again, ChildrenChosen) == said(first, ChildrenChosen)


def test_a_content_is_analysed_once_for_each_profile_of_the_submission() -> None:
    """Whoever meets it later points to the task that there is; another profile has a task of its own."""
    asked = submission()
    family = asked.family(NOW)
    [first] = said(decided(asked, family, fact(file(1), file(2), file(1))), ChildrenChosen)
    assert [child.task_id for child in first.children] == [
        derived("tsk", ROOT, f"{number:064x}") for number in (1, 2, 1)
    ]
    assert first.children[2].reason
    child = first.children[0].task_id
    [inner] = said(decided(asked, family, fact(file(2), task_id=child)), ChildrenChosen)
    assert inner.children[0].task_id == first.children[1].task_id
    assert len(said(decided(asked, family, fact(file(1), task_id=OTHER_ROOT)), TaskSubmitted)) == 1


def test_neither_the_sample_nor_what_it_was_found_in_is_its_child() -> None:
    """An archive that contains itself, directly or by way of another, ends there."""
    asked = submission()
    family = asked.family(NOW)
    assert reasons(decided(asked, family, fact(file(0), file(1)))) == [
        "it is the sample itself, or what that was found in",
        "",
    ]
    child = derived("tsk", ROOT, f"{1:064x}")
    assert all(reasons(decided(asked, family, fact(file(0), file(1), task_id=child))))


@pytest.mark.parametrize(
    ("limits", "room", "words"),
    [
        (ChildLimits(per_task_max=1), 9, "limit: 1 children of one task"),
        (ChildLimits(tasks_per_submission_max=3), 9, "limit: 3 tasks of one submission"),
        (ChildLimits(bytes_max=15), 9, "limit: 15 bytes of all children of one submission"),
        (ChildLimits(), 1, "limit: the owner has as many tasks that wait as one may have"),
    ],
)
def test_each_limit_cuts_and_says_so(limits: ChildLimits, room: int, words: str) -> None:
    """The first file fits, the second does not."""
    asked = submission()
    assert reasons(decided(asked, asked.family(NOW), fact(file(1), file(2)), limits, room)) == ["", words]


def test_depth_is_bounded_and_said() -> None:
    """A child's children go on, as far as the limit."""
    asked, limits = submission(), ChildLimits(depth_max=2)
    family, task_id = asked.family(NOW), ROOT
    for number in (1, 2):
        [chosen] = said(decided(asked, family, fact(file(number), task_id=task_id), limits), ChildrenChosen)
        task_id = chosen.children[0].task_id
    assert reasons(decided(asked, family, fact(file(3), task_id=task_id), limits)) == [
        "limit: it is 3 deep; 2 is as deep as it goes"
    ]


@pytest.mark.promise("P21")
@pytest.mark.parametrize(
    ("wish", "made"),
    [
        (None, 3),
        (ChildrenChoice(depth=0), 0),
        (ChildrenChoice(per_task=1), 1),
        (ChildrenChoice(kinds=("document",)), 1),
        (ChildrenChoice(depth=8, per_task=64), 3),
    ],
)
def test_a_submitter_switches_children_off_or_narrows_them(wish: ChildrenChoice | None, made: int) -> None:
    """Never beyond what the installation allows."""
    asked = submission(children=wish)
    pdf = file(3, ("generic", None, "application/pdf"))
    unit = decided(asked, asked.family(NOW), fact(file(1), file(2), pdf))
    assert len(said(unit, TaskSubmitted)) == made
    assert all(task.request.children == wish for task in said(unit, TaskSubmitted))


@pytest.mark.promise("G1")
def test_a_cancelled_submission_makes_no_more_children() -> None:
    """What is found after that is named, with the reason."""
    asked = submission()
    family = asked.family(NOW)
    family.close("ann", NOW)
    assert reasons(decided(asked, family, fact(file(1)))) == ["the submission was cancelled"]


def test_text_pictures_and_what_nobody_could_name_are_not_worth_a_task() -> None:
    """What runs, what carries code, and what holds such things is; a program goes before a document."""
    asked = submission()
    unknown = file(3, ("", None, ""))
    found = fact(file(1, TEXT), file(2, ("generic", None, "image/png")), unknown)
    assert all(reasons(decided(asked, asked.family(NOW), found)))
    assert kind_of(file(4, ("generic", "linux", "text/plain"))) == "script"
    pdf, elf = file(5, ("generic", None, "application/pdf")), file(6, ("elf", "linux", "application/x-elf"))
    assert reasons(decided(asked, asked.family(NOW), fact(pdf, elf), ChildLimits(per_task_max=1))) == [
        "limit: 1 children of one task",
        "",
    ]


def test_a_message_about_as_many_files_as_there_may_be_fits() -> None:
    """With the longest names that are handed on."""
    asked = submission()
    found = fact(*(file(number, name='"' * 160) for number in range(1, CHILDREN_FOUND_MAX + 1)))
    unit = decided(asked, asked.family(NOW), found)
    assert len(said(unit, ChildrenChosen)[0].children) == CHILDREN_FOUND_MAX
    assert max(len(row.body) for row in unit.outbox) < MESSAGE_MAX_BYTES


FILES = st.builds(
    lambda number, mime: file(number, ("generic", None, mime), size_bytes=number * 7 + 1),
    st.integers(0, 30),
    st.sampled_from([*KINDS, "text/plain", "image/png"]),
)


@given(
    rounds=st.lists(st.lists(FILES, max_size=20), max_size=6),
    limits=st.builds(
        ChildLimits,
        depth_max=st.integers(0, 3),
        per_task_max=st.integers(1, 5),
        tasks_per_submission_max=st.integers(1, 12),
        bytes_max=st.integers(1, 600),
    ),
    room=st.integers(0, 6),
)
def test_whatever_is_found_no_limit_is_passed_and_no_content_comes_twice(
    rounds: list[list[FoundChild]], limits: ChildLimits, room: int
) -> None:
    """Every round, something is found inside the task that came last."""
    family = Family.begin(SUBMISSION, [Member(ROOT, ROOT, f"{0:064x}", 1)], NOW)
    for found in rounds:
        parent = list(family.members.values())[-1]
        choices = choose(found, family, parent, limits, room=room)
        joining = [choice.joins for choice in choices if choice.joins is not None]
        assert len(joining) <= min(limits.per_task_max, room)
        assert [choice.found for choice in choices] == found
        assert all((choice.joins is None) == bool(choice.reason) for choice in choices)
        assert all(choice.task_id is None or choice.found.blob.sha256 != parent.sha256 for choice in choices)
        family.join(parent, joining, {}, NOW)
    contents = [member.sha256 for member in family.members.values()]
    assert len(contents) == len(set(contents))
    assert len(contents) <= max(1, limits.tasks_per_submission_max)
    assert all(member.depth <= limits.depth_max for member in family.members.values())
    assert sum(child.size_bytes for child in family.children) <= limits.bytes_max


def test_a_family_is_what_its_events_say() -> None:
    """Read again, it is the same."""
    asked = submission()
    family = asked.family(NOW)
    unit = decided(asked, family, fact(file(1)))
    family.join(family.members[OTHER_ROOT], [], {}, NOW)
    family.close("ann", NOW)
    copy: Any = None
    for event in (*unit.events, *family.collect_events()):
        copy = event.mutate(copy)
    assert (copy.closed_by, copy.decided, copy.members) == (family.closed_by, family.decided, family.members)
