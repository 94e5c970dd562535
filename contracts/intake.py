"""What intake says."""

from typing import ClassVar

from contracts.envelope import Message
from contracts.ids import SubmissionId, TaskId
from contracts.submission import AnalysisRequest, SampleRef


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

    def subject(self) -> str:
        """The task."""
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
