"""What results says."""

from typing import ClassVar, Literal

from pydantic import Field

from contracts.blobs import BlobRef
from contracts.envelope import Message
from contracts.ids import ResultId, TaskId
from contracts.limits import REASON_MAX_CHARS

Verdict = Literal["benign", "suspicious", "malicious", "unknown"]


class ResultFact(Message):
    """A fact about what is known of a task."""

    PRODUCER: ClassVar[str] = "results"

    task_id: TaskId

    def subject(self) -> str:
        """The task."""
        return self.task_id


class ArtifactStored(ResultFact):
    """The result is recorded and its bytes can be downloaded."""

    THING: ClassVar[str] = "artifact"
    WHAT: ClassVar[str] = "stored"
    result_id: ResultId
    blob: BlobRef
    name: str


class ReportReady(ResultFact):
    """Every result of the task is durable, and the report is sealed and readable.

    `missing_results`: those that were produced and could not be had, after long enough waiting; the report names them.
    """

    THING: ClassVar[str] = "report"
    WHAT: ClassVar[str] = "ready"
    verdict: Verdict
    score: int = Field(ge=0, le=100)
    report: BlobRef
    missing_results: tuple[ResultId, ...] = ()
    missing_more: int = Field(default=0, ge=0, description="missing results beyond those that are named here")
    revision: int = Field(default=0, ge=0, description="of the report: it grows when a child of the task is judged")


class VerdictChanged(ResultFact):
    """What was found inside the task's sample was judged after its report was sealed: this is the verdict now."""

    THING: ClassVar[str] = "verdict"
    WHAT: ClassVar[str] = "changed"
    verdict: Verdict
    score: int = Field(ge=0, le=100)
    report: BlobRef
    revision: int = Field(ge=1)
    reason: str = Field(max_length=REASON_MAX_CHARS)
