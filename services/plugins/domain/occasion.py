"""What a run is for, and what shares an instance with it."""

from dataclasses import dataclass
from typing import Literal

ScopeKey = Literal["task", "stage", "sample", "owner"]


@dataclass(frozen=True)
class Occasion:
    """The stage of a task that a run belongs to. `owner` is unknown to stages that were ordered before it was said."""

    task_id: str
    attempt: int
    stage: str
    sample: str
    owner: str | None = None

    def scope(self, key: ScopeKey) -> str:
        """The value that runs of one scope have in common. Without a known owner, nobody else's: the task."""
        match key:
            case "task":
                return f"task {self.task_id}"
            case "stage":
                return f"stage {self.task_id}/{self.attempt}/{self.stage}"
            case "sample":
                return f"sample {self.sample}"
            case "owner":
                return f"owner {self.owner}" if self.owner is not None else f"task {self.task_id}"

    def scopes(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.scope(key) for key in ("task", "stage", "sample", "owner"))
