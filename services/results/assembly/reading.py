"""Reads the plugins' results of a case. What cannot be read becomes an error of the report, never a crash."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from services.results.assembly.sections import preview, section
from services.results.domain.case import Case
from services.results.domain.inputs import Findings, Input, Matches, Unreadable, read
from services.results.domain.report import ReportError, Section
from services.results.domain.result import Result

FINDINGS_KEYS = (b'"traits"', b'"indicators"')
MATCHES_KEYS = (b'"matches"',)

I = TypeVar("I", bound=Input)  # noqa: E741 - the input
T = TypeVar("T")


class Reader:
    """Reads, and remembers what it could not."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._faults: dict[str, ReportError] = {}

    @property
    def errors(self) -> list[ReportError]:
        """One for each result that did not fit, whatever it was read as."""
        return list(self._faults.values())

    def inputs(self, plugin: str, model: type[I], name: str | None = None) -> list[tuple[I, Result]]:
        """The plugin's results that fit the model, the newest attempt first; `name`: where it is not the plugin's."""
        found: list[tuple[I, Result]] = []
        for result, content in self._case.json_of(plugin, name or plugin):
            read_input = self._tried(result, partial(read, model, content))
            if read_input is not None:
                found.append((read_input, result))
        return found

    def findings(self) -> list[tuple[Findings, Result]]:
        """What plugins on the host found in the bytes, in the order of the results. A guest has no word in this."""
        return [
            (said, result)
            for result, content in self._naming(FINDINGS_KEYS)
            if (said := self._tried(result, partial(read, Findings, content))) is not None
        ]

    def ruled(self) -> list[tuple[Matches, Result]]:
        """What rules said on the host, whoever's they are; of each result the newest attempt that can be read."""
        newest: dict[tuple[str, str, str], tuple[Matches, Result]] = {}
        for result, content in self._naming(MATCHES_KEYS):
            said = self._tried(result, partial(read, Matches, content))
            if said is None or "matches" not in said.model_fields_set:
                continue
            key = (result.stage, result.plugin, result.name)
            if key not in newest or newest[key][1].attempt < result.attempt:
                newest[key] = (said, result)
        return list(newest.values())

    def _naming(self, keys: tuple[bytes, ...]) -> Iterator[tuple[Result, bytes]]:
        """The JSON objects of plugins on the host in which one of the keys may stand, in the order of the results."""
        for result in self._case.results:
            content = self._case.contents.get(result.result_id, b"")
            is_said_outside = result.stage != "guest" and content.lstrip().startswith(b"{")
            if is_said_outside and any(key in content for key in keys):
                yield result, content

    def sections(self) -> tuple[Section, ...]:
        """A section of every JSON result, and of every preview."""
        made = (
            self._tried(result, partial(section, result, self._case.contents[result.result_id]))
            for result in self._case.results
            if result.result_id in self._case.contents
        )
        texts = (
            preview(result, self._case.previews[result.result_id])
            for result in self._case.results
            if result.result_id in self._case.previews
        )
        return (*(one for one in made if one is not None), *texts)

    def _tried(self, result: Result, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except Unreadable as error:
            self._faults.setdefault(result.result_id, unreadable(result, str(error)))
            return None


def unreadable(result: Result, reason: str) -> ReportError:
    """The result is there and cannot be shown."""
    return ReportError(
        source="result",
        stage=result.stage,
        plugin=result.plugin,
        result_id=result.result_id,
        outcome="unreadable",
        reason=f"{result.plugin}/{result.name}: {reason}",
    )
