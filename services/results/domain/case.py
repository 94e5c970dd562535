"""Everything that a report is made from."""

from dataclasses import dataclass, field
from datetime import datetime

from contracts.scheduler import SealReport
from services.results.domain.report import Evidence
from services.results.domain.result import Result

CHILDREN = "children/"


@dataclass(frozen=True)
class Case:
    """The order to seal, the results it names, and what could be had of them.

    `contents` holds the bytes of JSON results, `previews` the first bytes of what is text;
    `unreadable` and `missing` say why others are not there. All by result id. `unnamed` counts those that the order
    counts and whose names never came.
    """

    seal: SealReport
    sealed_at: datetime
    results: tuple[Result, ...]
    contents: dict[str, bytes]
    unreadable: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    previews: dict[str, bytes] = field(default_factory=dict)
    unnamed: int = 0

    @property
    def has_children(self) -> bool:
        """Whether files were found inside the sample."""
        return any(result.name.startswith(CHILDREN) for result in self.results)

    def json_of(self, plugin: str, name: str) -> list[tuple[Result, bytes]]:
        """The JSON results of one plugin and name, the newest attempt first."""
        found = [
            (result, self.contents[result.result_id])
            for result in self.results
            if (result.plugin, result.name) == (plugin, name) and result.result_id in self.contents
        ]
        return sorted(found, key=lambda pair: -pair[0].attempt)


def evidence(result: Result, pointer: str) -> Evidence:
    """A place in a result."""
    return Evidence(plugin=result.plugin, result_id=result.result_id, pointer=pointer)
