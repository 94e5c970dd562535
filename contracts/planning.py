"""The plan of a task: which plugins run, in which stages, in which order and versions. Frozen at submission."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from contracts.ids import PluginName, StageName

Context = Literal["exclusive", "sequential", "parallel", "unrestricted"]
EndedBy = Literal["sample_exit", "window", "timeout", "plugin", "cancelled", "guest_lost"]


class PlannedRun(BaseModel):
    """One run of one pinned plugin version with its effective configuration."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    plugin: PluginName
    version: str
    config: dict[str, Any] = {}


class PlannedStage(BaseModel):
    """Groups run one after another; the runs of one group run together."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: StageName
    groups: tuple[tuple[PlannedRun, ...], ...]


class Plan(BaseModel):
    """The ordered stages of a task."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stages: tuple[PlannedStage, ...]

    def stage(self, name: str) -> PlannedStage | None:
        """The stage of that name, if the plan has it."""
        return next((stage for stage in self.stages if stage.name == name), None)
