"""One recorded result of one plugin run. Repeating it changes nothing: the id is derived from what it is."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Kind = Literal["json", "bytes", "file"]


@dataclass(frozen=True)
class Result:
    """What is known of a result; its bytes stand in the object store under the hash."""

    result_id: str
    task_id: str
    attempt: int
    stage: str
    plugin: str
    version: str
    run_id: str
    name: str
    kind: Kind
    media_type: str
    sha256: str
    size_bytes: int
    path: str | None
    is_truncated: bool
    recorded_at: datetime
    title: str = ""

    @property
    def href(self) -> str:
        """Where the bytes are to be had."""
        return f"/api/v1/artifacts/{self.result_id}"
