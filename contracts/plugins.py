"""What plugins says."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.blobs import BlobRef
from contracts.envelope import Message
from contracts.ids import LeaseId, PluginName, ResultId, RunId, StageName, SubmissionId, TaskId
from contracts.limits import CHILDREN_FOUND_MAX, RESULT_TITLE_MAX_CHARS, SAMPLE_NAME_MAX_CHARS
from contracts.machines import LeaseRef
from contracts.planning import Context, EndedBy

RunOutcome = Literal["completed", "failed", "crashed", "timed_out", "skipped"]


class PluginManifest(BaseModel):
    """The part of a plugin's manifest that planning and validation need."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: PluginName
    version: str
    digest: str = Field(default="", description="of the plugin's files: the same version may have been edited")
    description: str
    kind: Literal["host", "guest"]
    context: Context = "parallel"
    stages: tuple[StageName, ...]
    platforms: tuple[str, ...] = Field(default=(), description="empty: any")
    packages: tuple[str, ...] = Field(default=(), description="empty: any")
    mime: tuple[str, ...] = Field(default=(), description="patterns of media types by content; empty: any")
    after: tuple[PluginName, ...] = ()
    before: tuple[PluginName, ...] = ()
    requires: tuple[PluginName, ...] = ()
    config_schema: dict[str, Any] = Field(default={}, description="JSON Schema of the configuration")


class PluginFact(Message):
    """A fact about the catalogue."""

    PRODUCER: ClassVar[str] = "plugins"
    THING: ClassVar[str] = "plugin"


class PluginRegistered(PluginFact):
    """The plugin is in the catalogue and may be planned. Said again at every start of the service."""

    WHAT: ClassVar[str] = "registered"
    manifest: PluginManifest

    def subject(self) -> str:
        """The plugin."""
        return self.manifest.name


class PluginRejected(PluginFact):
    """A folder that is not a plugin, and why."""

    WHAT: ClassVar[str] = "rejected"
    folder: str
    reason: str

    def subject(self) -> str:
        """The folder's name."""
        return self.folder


class PluginRemoved(PluginFact):
    """The plugin may no longer be planned."""

    WHAT: ClassVar[str] = "removed"
    name: PluginName

    def subject(self) -> str:
        """The plugin."""
        return self.name


class RunError(BaseModel):
    """Something that was to be done and was not, and why, in words for an analyst."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    plugin: str | None = None
    stage: StageName
    outcome: RunOutcome
    reason: str


class StageFact(Message):
    """A fact about one stage of one attempt of a task."""

    PRODUCER: ClassVar[str] = "plugins"
    THING: ClassVar[str] = "stage"

    task_id: TaskId
    attempt: int = Field(ge=1)
    stage: StageName

    def subject(self) -> str:
        """The task."""
        return self.task_id


class PluginStageStarted(StageFact):
    """The stage's first run is about to start."""

    WHAT: ClassVar[str] = "started"


class PluginStageCompleted(StageFact):
    """Every run of the stage has an outcome, and every result of it is durable in the object store."""

    WHAT: ClassVar[str] = "completed"
    result_ids: tuple[ResultId, ...]
    errors: tuple[RunError, ...] = ()
    ended_by: EndedBy | None = None


class PluginStageFailed(StageFact):
    """The stage as a whole could not be done. `is_retryable`: another machine or moment may do."""

    WHAT: ClassVar[str] = "failed"
    reason: str
    is_retryable: bool
    result_ids: tuple[ResultId, ...] = ()
    errors: tuple[RunError, ...] = ()
    ended_by: EndedBy | None = None


class PluginStageSkipped(StageFact):
    """The stage has nothing to do with such a sample, and why. Said before its turn where that is known so early."""

    WHAT: ClassVar[str] = "skipped"
    reason: str


class FoundChild(BaseModel):
    """A file found inside the sample, durable in the object store, and what it is by its content."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    result_id: ResultId
    plugin: PluginName
    name: str = Field(max_length=SAMPLE_NAME_MAX_CHARS, description="inside its container, for display only")
    blob: BlobRef
    package: str = Field(default="", max_length=32, description="how it would be run; empty: not determined")
    platform: str | None = Field(default=None, max_length=32)
    mime: str = Field(default="", max_length=128)


class ChildrenFound(StageFact):
    """The stage's plugins found files inside the sample: each content once."""

    THING: ClassVar[str] = "children"
    WHAT: ClassVar[str] = "found"

    submission_id: SubmissionId
    children: tuple[FoundChild, ...] = Field(max_length=CHILDREN_FOUND_MAX)
    left_out: int = Field(default=0, ge=0, description="files beyond the bound of what is looked at")


class PluginStarted(StageFact):
    """One run of a plugin began."""

    THING: ClassVar[str] = "plugin"
    WHAT: ClassVar[str] = "started"
    run_id: RunId
    plugin: PluginName
    version: str


class PluginFinished(StageFact):
    """One run of a plugin ended, and how."""

    THING: ClassVar[str] = "plugin"
    WHAT: ClassVar[str] = "finished"
    run_id: RunId
    plugin: PluginName
    version: str
    outcome: RunOutcome
    reason: str = ""
    duration_ms: int = Field(ge=0)


class PluginResultProduced(StageFact):
    """One result is durable in the object store under this reference."""

    THING: ClassVar[str] = "plugin"
    WHAT: ClassVar[str] = "result-produced"
    result_id: ResultId
    run_id: RunId
    plugin: PluginName
    version: str
    name: str = Field(max_length=255)
    kind: Literal["json", "bytes", "file"]
    media_type: str
    blob: BlobRef
    path: str | None = Field(default=None, description="where the bytes stood in the guest, for display only")
    is_truncated: bool = False
    title: str = Field(
        default="",
        max_length=RESULT_TITLE_MAX_CHARS,
        description="what the plugin's manifest calls the result; empty: nothing does",
    )


class SampleStarted(StageFact):
    """The sample's first process runs."""

    THING: ClassVar[str] = "sample"
    WHAT: ClassVar[str] = "started"
    lease_id: LeaseId
    pid: int
    argv: tuple[str, ...]


class SampleExited(StageFact):
    """The sample's first process ended. Its children may live on."""

    THING: ClassVar[str] = "sample"
    WHAT: ClassVar[str] = "exited"
    lease_id: LeaseId
    exit_code: int | None
    signal: int | None = None


class ObservationEnded(StageFact):
    """Watching is over, by the named rule; evidence is being collected."""

    THING: ClassVar[str] = "observation"
    WHAT: ClassVar[str] = "ended"
    ended_by: EndedBy
    lease: LeaseRef | None = Field(default=None, description="whose evidence it is, and who drives it")


class GuestConnected(StageFact):
    """The agent of the lease was reached and proven."""

    THING: ClassVar[str] = "guest"
    WHAT: ClassVar[str] = "connected"
    lease_id: LeaseId
    agent_version: str


class GuestLost(StageFact):
    """The agent of the lease no longer answers."""

    THING: ClassVar[str] = "guest"
    WHAT: ClassVar[str] = "lost"
    lease_id: LeaseId
    reason: str


class LeaseBeat(Message):
    """The named driver of the lease lives. Said every few seconds; of use to machines alone, and to nobody later."""

    PRODUCER: ClassVar[str] = "plugins"
    THING: ClassVar[str] = "lease"
    WHAT: ClassVar[str] = "beat"
    PUBLIC: ClassVar[bool] = False

    task_id: TaskId
    lease: LeaseRef
    beat: int = Field(ge=1, description="grows by one with each beat of one term")

    def subject(self) -> str:
        """The lease."""
        return self.lease.lease_id
