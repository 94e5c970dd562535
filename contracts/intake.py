"""What intake says."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from contracts.envelope import Message
from contracts.ids import PluginName, ResultId, Sha256, SubmissionId, TaskId
from contracts.limits import CHILDREN_FOUND_MAX, SAMPLE_NAME_MAX_CHARS
from contracts.submission import AnalysisRequest, Parentage, SampleRef

DECISION_MAX_CHARS = 200


class IntakeFact(Message):
    """A fact stated by intake."""

    PRODUCER: ClassVar[str] = "intake"


class SampleStored(IntakeFact):
    """The bytes of a sample are durable in the object store."""

    THING: ClassVar[str] = "sample"
    WHAT: ClassVar[str] = "stored"

    sample: SampleRef
    owner: str

    def subject(self) -> str:
        """The sample's hash."""
        return self.sample.blob.sha256


class TaskSubmitted(IntakeFact):
    """One sample is to be analysed once, as the request says."""

    THING: ClassVar[str] = "task"
    WHAT: ClassVar[str] = "submitted"

    task_id: TaskId
    submission_id: SubmissionId
    owner: str
    sample: SampleRef
    request: AnalysisRequest
    parent: Parentage | None = Field(default=None, description="where the sample was found; nothing: it was submitted")

    def subject(self) -> str:
        """The task."""
        return self.task_id


class ChildDecision(BaseModel):
    """A file found inside the sample, and what became of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    result_id: ResultId
    plugin: PluginName
    name: str = Field(max_length=SAMPLE_NAME_MAX_CHARS)
    sha256: Sha256
    task_id: TaskId | None = Field(default=None, description="the task that analyses it, made for it or known before")
    reason: str = Field(default="", max_length=DECISION_MAX_CHARS, description="why no task was made for it")


class ChildrenChosen(IntakeFact):
    """Of the files found inside the task's sample these are analysed by tasks of the same submission, and those not."""

    THING: ClassVar[str] = "children"
    WHAT: ClassVar[str] = "chosen"

    task_id: TaskId
    submission_id: SubmissionId
    children: tuple[ChildDecision, ...] = Field(max_length=CHILDREN_FOUND_MAX)
    left_out: int = Field(default=0, ge=0, description="files beyond the bound of what is looked at")

    def subject(self) -> str:
        """The task inside whose sample they were found."""
        return self.task_id


class TaskCancellationRequested(IntakeFact):
    """Somebody who may asks that the task end."""

    THING: ClassVar[str] = "task"
    WHAT: ClassVar[str] = "cancellation-requested"

    task_id: TaskId
    by: str
    reason: str

    def subject(self) -> str:
        """The task."""
        return self.task_id
