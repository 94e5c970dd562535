"""Use cases: a submission is decided, then recorded together with what it says."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from contracts.blobs import BlobRef
from contracts.ids import derived
from contracts.intake import ChildDecision, ChildrenChosen, SampleStored, TaskSubmitted
from contracts.plugins import ChildrenFound
from contracts.submission import AnalysisRequest, Parentage, SampleRef
from services.chassis.unit import Unit
from services.intake.domain.choosing import ChildLimits, Choice, choose, inherited
from services.intake.domain.family import Family, Member
from services.intake.domain.names import escaped_original, safe_name

CONFIRM_TASK = "confirm_task"
CONFIRM_AFTER_S = 60.0
INSERT = (
    "INSERT INTO submissions (submission_id, owner, idempotency_key, fingerprint, sha256, size_bytes, name, name_sent, "
    "submitted_at, tasks) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb)"
)


UNSTARTED = "INSERT INTO unstarted (task_id, owner, since) VALUES ($1, $2, $3)"


@dataclass(frozen=True)
class SubmittedTask:
    """One task of a submission: what is to be done, to which bytes if not those that were submitted."""

    task_id: str
    request: AnalysisRequest
    sample: SampleRef | None = None
    parent: Parentage | None = None

    def as_json(self) -> dict[str, Any]:
        """The task as the API shows it; one that was found inside says where, and what it is called there."""
        shown = {
            "task_id": self.task_id,
            "profile": self.request.profile,
            "request": self.request.model_dump(mode="json"),
        }
        if self.sample is not None and self.parent is not None:
            shown["sample"] = {**self.sample.blob.model_dump(), "name": self.sample.name}
            shown["parent"] = self.parent.model_dump(mode="json")
        return shown


@dataclass(frozen=True)
class Submission:
    """One sample, asked about once. `fingerprint` is the same when everything the client sent is the same."""

    submission_id: str
    owner: str
    idempotency_key: str | None
    fingerprint: str
    sample: SampleRef
    name_sent: str
    submitted_at: datetime
    tasks: tuple[SubmittedTask, ...]

    def as_json(self) -> dict[str, Any]:
        """The submission as the API shows it."""
        return {
            "submission_id": self.submission_id,
            "owner": self.owner,
            "submitted_at": self.submitted_at.isoformat(),
            "sample": {
                "sha256": self.sample.blob.sha256,
                "size_bytes": self.sample.blob.size_bytes,
                "name": self.sample.name,
                "name_sent": self.name_sent,
            },
            "tasks": [task.as_json() for task in self.tasks],
        }

    def family(self, at: datetime) -> Family:
        """Its tasks, before anything was found inside."""
        blob = self.sample.blob
        members = [Member(task.task_id, task.task_id, blob.sha256, blob.size_bytes) for task in self.tasks]
        return Family.begin(self.submission_id, members, at)

    def children(self, family: Family) -> tuple[SubmittedTask, ...]:
        """The tasks of what was found inside."""
        roots = {task.task_id: task.request for task in self.tasks}
        return tuple(_child_task(child, roots[child.root]) for child in family.children)


def fingerprint(blob: BlobRef, name_sent: bytes, fields: Sequence[tuple[str, str]]) -> str:
    """The same hash for the same file, name and options, in whatever order the options were sent."""
    ordered = sorted(fields, key=lambda pair: pair[0])
    content = [blob.sha256, name_sent.hex(), ordered]
    return hashlib.sha256(orjson.dumps(content)).hexdigest()


def decide(
    *,
    submission_id: str,
    owner: str,
    idempotency_key: str | None,
    fingerprint: str,
    blob: BlobRef,
    name_sent: bytes,
    requests: Sequence[AnalysisRequest],
    at: datetime,
) -> Submission:
    """The submission with a task for each request. The same submission id always yields the same task ids."""
    return Submission(
        submission_id=submission_id,
        owner=owner,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
        sample=SampleRef(blob=blob, name=safe_name(name_sent)),
        name_sent=escaped_original(name_sent),
        submitted_at=at,
        tasks=tuple(SubmittedTask(derived("tsk", submission_id, request.profile), request) for request in requests),
    )


def record(submission: Submission, unit: Unit) -> None:
    """The row and what it says go into one unit: both, or neither."""
    unit.execute(
        INSERT,
        submission.submission_id,
        submission.owner,
        submission.idempotency_key,
        submission.fingerprint,
        submission.sample.blob.sha256,
        submission.sample.blob.size_bytes,
        submission.sample.name,
        submission.name_sent,
        submission.submitted_at,
        orjson.dumps(
            [{"task_id": task.task_id, "request": task.request.model_dump(mode="json")} for task in submission.tasks]
        ).decode(),
    )
    unit.say(
        SampleStored(sample=submission.sample, owner=submission.owner),
        message_id=derived("msg", submission.submission_id, "sample"),
    )
    for task in submission.tasks:
        _begin_task(submission, task, unit)


def choose_children(
    submission: Submission, family: Family, fact: ChildrenFound, limits: ChildLimits, *, room: int, unit: Unit
) -> None:
    """What was found inside is a task of the submission, or it is said why not; decided once for each task.

    Whoever says again what was found has not heard the decision: it is said again.
    """
    parent = family.members.get(fact.task_id)
    if parent is None:
        return
    if fact.task_id in family.decided:
        unit.say(ChildrenChosen.model_validate(family.decided[fact.task_id]))
        return
    roots = {task.task_id: task.request for task in submission.tasks}
    allowed = limits.narrowed(roots[parent.root].children)
    choices = choose(fact.children, family, parent, allowed, room=room)
    chosen = ChildrenChosen(
        task_id=fact.task_id,
        submission_id=submission.submission_id,
        children=tuple(_decision(choice) for choice in choices),
        left_out=fact.left_out,
    )
    joining = [choice.joins for choice in choices if choice.joins is not None]
    family.join(parent, joining, chosen.model_dump(mode="json"), unit.at)
    unit.save(family)
    for child in joining:
        task = _child_task(child, roots[child.root])
        if task.sample is not None:
            said = SampleStored(sample=task.sample, owner=submission.owner)
            unit.say(said, message_id=derived("msg", task.task_id, "sample"))
        _begin_task(submission, task, unit)
    unit.say(chosen, message_id=derived("msg", fact.task_id, "children"))


def _decision(choice: Choice) -> ChildDecision:
    return ChildDecision(
        result_id=choice.found.result_id,
        plugin=choice.found.plugin,
        name=choice.found.name,
        sha256=choice.found.blob.sha256,
        task_id=choice.task_id,
        reason=choice.reason,
    )


def _child_task(child: Member, request: AnalysisRequest) -> SubmittedTask:
    blob = BlobRef(sha256=child.sha256, size_bytes=child.size_bytes)
    sample = SampleRef(blob=blob, name=safe_name(child.name.encode("utf-8", "replace")))
    return SubmittedTask(child.task_id, inherited(request, child.package), sample, child.parentage)


def _begin_task(submission: Submission, task: SubmittedTask, unit: Unit) -> None:
    """It counts as one that waits, it is said, and said again until the scheduler is heard to know it."""
    unit.execute(UNSTARTED, task.task_id, submission.owner, unit.at)
    say_task(submission, task, unit)
    unit.enqueue(
        CONFIRM_TASK,
        task.task_id,
        {"task_id": task.task_id, "submission_id": submission.submission_id},
        due_at=unit.at + timedelta(seconds=CONFIRM_AFTER_S),
    )


def say_task(submission: Submission, task: SubmittedTask, unit: Unit) -> None:
    """TaskSubmitted is said, under the same message id every time."""
    unit.say(
        TaskSubmitted(
            task_id=task.task_id,
            submission_id=submission.submission_id,
            owner=submission.owner,
            sample=task.sample or submission.sample,
            request=task.request,
            parent=task.parent,
        ),
        message_id=derived("msg", task.task_id, "submitted"),
    )
