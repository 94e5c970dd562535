"""What a submission may ask, in the words of the Cuckoo family (04-tasks)."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts import limits
from contracts.blobs import BlobRef
from contracts.ids import MachineId, PluginName, ResultId, TaskId

Route = Literal["none", "simulated", "internet"]
Package = Literal["auto", "elf", "shell", "python", "archive", "generic"]
Platform = Literal["linux", "windows"]
Tlp = Literal["clear", "green", "amber", "amber+strict", "red"]
ChildKind = Literal["program", "script", "document", "archive"]

Label = Annotated[str, StringConstraints(pattern=r"^[\w.:/+-]{1,64}$")]
Argument = Annotated[str, StringConstraints(max_length=limits.ARGUMENT_MAX_CHARS)]


def offer(route: str, *, untrusted: bool) -> str:
    """One thing that a machine may offer: that route, for samples that are marked untrusted or for others."""
    return f"{route}, untrusted" if untrusted else route


class SampleRef(BaseModel):
    """The bytes to analyse and the name they came under (already made safe for display, never used as a path)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    blob: BlobRef
    name: str = Field(min_length=1, max_length=limits.SAMPLE_NAME_MAX_CHARS)


class PluginChoice(BaseModel):
    """One plugin asked for, with its configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: PluginName
    config: dict[str, Any] = {}


class ChildrenChoice(BaseModel):
    """Which files found inside the sample become tasks of the same submission: fewer than the installation allows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int = Field(
        default=limits.CHILD_DEPTH_MAX, ge=0, le=limits.CHILD_DEPTH_MAX, description="how far inside; 0: none at all"
    )
    per_task: int = Field(default=limits.CHILDREN_FOUND_MAX, ge=1, le=limits.CHILDREN_FOUND_MAX)
    kinds: tuple[ChildKind, ...] = Field(default=get_args(ChildKind), min_length=1, max_length=len(get_args(ChildKind)))


class Parentage(BaseModel):
    """The sample was found inside that of another task of the same submission."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: TaskId
    depth: int = Field(ge=1, le=limits.CHILD_DEPTH_MAX, description="1: inside what was submitted")
    result_id: ResultId
    plugin: PluginName = Field(description="what found it")
    name: str = Field(max_length=limits.SAMPLE_NAME_MAX_CHARS, description="inside its container, for display only")


class AnalysisRequest(BaseModel):
    """Everything accepted here has a tested effect; anything else was refused at submission."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    package: Package = "auto"
    archive_entry: str | None = Field(default=None, max_length=1024)
    password: str | None = Field(default=None, max_length=256, description="of the archive or document; not a secret")
    arguments: tuple[Argument, ...] = Field(default=(), max_length=limits.ARGUMENTS_MAX)
    plugins: tuple[PluginChoice, ...] | None = Field(
        default=None, max_length=limits.PLUGINS_PER_TASK_MAX, description="None: every plugin that applies"
    )
    profile: str = "linux"
    machine: MachineId | None = None
    timeout_s: int = Field(
        default=limits.OBSERVATION_DEFAULT_S, ge=limits.OBSERVATION_MIN_S, le=limits.OBSERVATION_MAX_S
    )
    enforce_timeout: bool = False
    route: Route = "none"
    priority: int = Field(default=limits.PRIORITY_DEFAULT, ge=limits.PRIORITY_MIN, le=limits.PRIORITY_MAX)
    custom: str = Field(default="", max_length=limits.CUSTOM_MAX_CHARS)
    tags: tuple[Label, ...] = Field(default=(), max_length=limits.TAGS_MAX)
    tlp: Tlp = "amber"
    untrusted: bool = Field(
        default=False, description="run it only where hardware virtualisation, or the operator's word, bounds the guest"
    )

    children: ChildrenChoice | None = Field(
        default=None, description="files found inside as samples of their own; nothing: as far as the installation goes"
    )

    @property
    def terms(self) -> str:
        """What a machine has to offer to run this: one of `MachineSummary.offers`."""
        return offer(self.route, untrusted=self.untrusted)
