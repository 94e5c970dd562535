"""The plan of a task: which plugins run, in which stages, in which order and versions. Frozen at submission."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import PluginName, StageName

Context = Literal["exclusive", "sequential", "parallel", "unrestricted"]
EndedBy = Literal["sample_exit", "window", "timeout", "plugin", "cancelled", "guest_lost"]
Phase = Literal["queue", "boot", "observation", "grace", "collection", "host_plugins", "cleanup"]


class PlannedRun(BaseModel):
    """One run of one pinned plugin version with its effective configuration."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    plugin: PluginName
    version: str
    config: dict[str, Any] = {}
    digest: str = Field(default="", description="of the plugin's files; empty: whatever has that version")


class PlannedStage(BaseModel):
    """Groups run one after another; the runs of one group run together."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: StageName
    groups: tuple[tuple[PlannedRun, ...], ...]


class Plan(BaseModel):
    """The ordered stages of a task."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stages: tuple[PlannedStage, ...]

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Every run, in order."""
        return tuple(run for stage in self.stages for group in stage.groups for run in group)

    def stage(self, name: str) -> PlannedStage | None:
        """The stage of that name, if the plan has it."""
        return next((stage for stage in self.stages if stage.name == name), None)


class Budgets(BaseModel):
    """How long each phase of a task may take, seconds. Frozen with the plan; none is charged to another.

    `observation_s` is the user's timeout. `grace_s` is how far a keep-alive may extend it: the two together are the
    hard timeout. What is beyond `cleanup_s` is shown, and never skipped.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    queue_s: int = Field(default=86_400, gt=0)
    boot_s: int = Field(default=300, gt=0)
    observation_s: int = Field(default=30, gt=0)
    grace_s: int = Field(default=120, ge=0)
    collection_s: int = Field(default=240, gt=0)
    host_plugins_s: int = Field(default=1_800, gt=0)
    cleanup_s: int = Field(default=600, gt=0)

    @property
    def hold_s(self) -> int:
        """What a lease covers: the machine is the task's from before its start until its evidence is collected."""
        return self.boot_s + self.observation_s + self.grace_s + self.collection_s


class PhaseCost(BaseModel):
    """What a phase was allowed, and what it took, over all attempts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    phase: Phase
    budget_s: int = Field(ge=0)
    spent_s: float = Field(ge=0)
