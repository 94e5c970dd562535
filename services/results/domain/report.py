"""The report of one task, version 1: `malbox.report.v1`. The JSON Schema in docs/reference comes from here.

Everything in it is either a statement of Malbox about the task, or evidence that came out of the sample;
strings of the second kind are kept as they came (cut to a bound) and are to be escaped by whoever shows them.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import MachineId, ResultId, Sha256, SubmissionId, TaskId
from contracts.planning import EndedBy, PhaseCost
from contracts.results import Verdict
from contracts.scheduler import AttemptOutcome
from contracts.submission import AnalysisRequest, Parentage, Platform

SCHEMA: Literal["malbox.report.v1"] = "malbox.report.v1"


class Part(BaseModel):
    """A frozen piece of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Evidence(Part):
    """Where a statement can be checked: a JSON pointer (RFC 6901) into one plugin's result."""

    plugin: str
    result_id: ResultId
    pointer: str


class Reason(Part):
    """Why the score is what it is. The points of all reasons add up to the score."""

    points: int = Field(ge=0, le=100, description="how much of the score comes from here")
    weight: int = Field(ge=0, le=100, description="what it would count alone; the score ends at 100")
    why: str
    name: str = Field(description="the signature or rule")
    techniques: tuple[str, ...] = ()
    evidence: Evidence
    more_evidence: tuple[Evidence, ...] = ()
    evidence_left_out: int = Field(default=0, ge=0, description="places beyond those that are named")


class ReportError(Part):
    """Something that was to be done or kept and was not."""

    source: Literal["plugin", "result", "task"]
    stage: str | None
    plugin: str | None
    result_id: ResultId | None
    outcome: str
    reason: str


class LostAttempt(Part):
    """A try of the guest stage that was followed by another. What its plugins produced is not in this report."""

    number: int = Field(ge=1, description="in the order of tries, with those that never had their machine")
    machine_id: MachineId | None
    began_at: datetime | None = Field(description="when the machine was asked for; None: not recorded")
    ended_at: datetime
    outcome: AttemptOutcome
    reason: str
    errors: tuple[ReportError, ...] = Field(default=(), description="what went wrong in it, as far as it was said")
    errors_left_out: int = Field(default=0, ge=0)


class Task(Part):
    """What was asked, and which task answered."""

    task_id: TaskId
    submission_id: SubmissionId
    owner: str
    attempts: int = Field(ge=0)
    attempt_reasons: tuple[str, ...] = Field(default=(), description="why each attempt that was lost was")
    lost_attempts: tuple[LostAttempt, ...] = Field(default=(), description="those before the last, in order")
    parent: Parentage | None = Field(default=None, description="inside whose sample this one's was found")


class Sample(Part):
    """The bytes that were analysed."""

    name: str
    sha256: Sha256
    size_bytes: int = Field(ge=0)
    md5: str | None = None
    sha1: str | None = None
    tlsh: str | None = Field(default=None, description="alike for bytes that are alike; None: too short, too uniform")
    ssdeep: str | None = Field(default=None, description="alike for bytes that are alike; None: empty or over 4 MiB")
    mime: str | None = None
    type: str | None = None
    package: str | None = None


class Environment(Part):
    """Where the sample ran, and what that place does and does not promise."""

    machine_id: MachineId | None
    platform: Platform | None
    acceleration: str
    is_security_boundary: bool
    statement: str


class Timings(Part):
    """When things happened, UTC."""

    submitted_at: datetime
    observed_from: datetime | None
    sealed_at: datetime
    total_s: float = Field(ge=0)
    phases: tuple[PhaseCost, ...] = Field(default=(), description="until the report was ordered")


class Indicator(Part):
    """Something to look for elsewhere."""

    kind: Literal[
        "md5", "sha1", "sha256", "ipv4", "ipv6", "domain", "url", "path", "email", "registry", "mutex", "wallet"
    ]
    value: str
    role: str
    source: Evidence | None = Field(description="None: known from the submission itself")
    context: str | None = Field(default=None, description="what stands around it in the sample's bytes")


class Technique(Part):
    """One MITRE ATT&CK technique that the evidence points to."""

    id: str
    name: str | None
    sources: tuple[str, ...]


class Process(Part):
    """One process of the sample's tree. Parents stand before their children; `depth` 0 is a root."""

    pid: int
    ppid: int | None
    depth: int = Field(ge=0)
    exe: str | None
    argv: tuple[str, ...]
    started_at_s: float | None
    ended_at_s: float | None
    exit_code: int | None
    signal: str | None


class TimelineEvent(Part):
    """Something that happened, seconds after the observation began."""

    at_s: float
    pid: int | None
    event: str
    detail: str


class NetworkAttempt(Part):
    """The sample tried to reach something. Whether it could is the outcome; the attempt is the evidence."""

    at_s: float | None
    pid: int | None
    family: str | None
    protocol: str | None
    address: str | None
    port: int | None
    query: str | None
    outcome: str | None
    count: int = Field(default=1, description="how often the same was tried")


class FileTouched(Part):
    """A file that the sample changed or looked into; `result_id` says that its bytes can be had."""

    path: str
    actions: tuple[str, ...]
    pids: tuple[int, ...]
    more_pids: int = Field(default=0, ge=0, description="processes that are not named here")
    errors: tuple[str, ...] = Field(default=(), description="what the attempts met")
    result_id: ResultId | None
    sha256: Sha256 | None
    size_bytes: int | None


class RuleMatch(Part):
    """A rule that matched: over the sample's bytes, over what plugins read of them, or over what it did."""

    rule: str
    description: str | None
    severity: int = Field(ge=0, le=100)
    techniques: tuple[str, ...]
    strings: int = Field(ge=0, description="how many places it rests on")
    evidence: Evidence


class FactsBlock(Part):
    """Names and values."""

    kind: Literal["facts"] = "facts"
    title: str
    facts: tuple[tuple[str, str], ...]
    more: int = Field(default=0, ge=0, description="values that are not shown here")


class TableBlock(Part):
    """Rows under headings."""

    kind: Literal["table"] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = Field(default=0, ge=0, description="rows that are not shown here")
    more_columns: int = Field(default=0, ge=0)


class TextBlock(Part):
    """Text as it came."""

    kind: Literal["text"] = "text"
    title: str
    text: str
    is_cut: bool = False


Block = Annotated[FactsBlock | TableBlock | TextBlock, Field(discriminator="kind")]


class Section(Part):
    """What one plugin found, in blocks that any client can show."""

    plugin: str
    version: str
    stage: str
    result_id: ResultId
    name: str = Field(default="", description="of the result; empty: a report of an earlier release does not say")
    blocks: tuple[Block, ...]
    more: int = Field(default=0, ge=0, description="values and blocks of the result that are not shown here")
    title: str = Field(default="", description="what the plugin calls it; empty: the plugin's name has to do")


class Artifact(Part):
    """Bytes that a plugin or the guest gave, to be downloaded. JSON results are in the sections."""

    result_id: ResultId
    plugin: str
    stage: str
    attempt: int
    name: str
    kind: Literal["bytes", "file"]
    media_type: str
    size_bytes: int
    sha256: Sha256
    path: str | None
    is_truncated: bool
    href: str
    title: str = Field(default="", description="what the plugin calls it; empty: it does not")


class Child(Part):
    """A file found inside the sample, and what became of it. It has a verdict when its own report is sealed."""

    name: str = Field(description="what it is called in its container: for display only")
    plugin: str
    result_id: ResultId
    sha256: Sha256
    task_id: TaskId | None = Field(description="the task that analyses it")
    reason: str = Field(default="", description="why no task was made for it")
    verdict: Verdict | None = None
    score: int | None = Field(default=None, ge=0, le=100)


class Truncation(Part):
    """How much more there was than is listed. The full lists are in the plugins' own results."""

    processes: int = 0
    timeline: int = 0
    files: int = 0
    network: int = 0
    indicators: int = 0
    matches: int = 0
    reasons: int = Field(default=0, description="all without points: the score was full before them")
    errors: int = 0
    lost_attempts: int = 0
    at_source: tuple[str, ...] = Field(default=(), description="results that a plugin already had to cut")
    at_source_more: int = Field(default=0, description="such results beyond those that are named")


class Report(Part):
    """The whole report."""

    schema_: Literal["malbox.report.v1"] = Field(default=SCHEMA, alias="schema")
    task: Task
    sample: Sample
    request: AnalysisRequest
    environment: Environment
    outcome: Literal["completed", "failed", "timed_out", "cancelled", "unserviceable"]
    outcome_reason: str
    ended_by: EndedBy | None
    timings: Timings
    verdict: Verdict
    score: int = Field(ge=0, le=100)
    reasons: tuple[Reason, ...]
    indicators: tuple[Indicator, ...]
    techniques: tuple[Technique, ...]
    processes: tuple[Process, ...]
    timeline: tuple[TimelineEvent, ...]
    network: tuple[NetworkAttempt, ...]
    files: tuple[FileTouched, ...]
    matches: tuple[RuleMatch, ...]
    sections: tuple[Section, ...]
    artifacts: tuple[Artifact, ...]
    errors: tuple[ReportError, ...]
    truncated: Truncation
    children: tuple[Child, ...] = ()
    children_left_out: int = Field(default=0, ge=0, description="files inside beyond the bound of what is looked at")
    missing_results: tuple[ResultId, ...] = Field(
        default=(), description="results that the task produced and that are not durable: lost evidence"
    )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def to_json(self) -> bytes:
        """The report as it is stored and served."""
        return self.model_dump_json(by_alias=True).encode()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of version 1."""
    return Report.model_json_schema(by_alias=True, mode="serialization")
