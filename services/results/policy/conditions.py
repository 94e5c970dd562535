"""The questions that a behaviour signature can ask. Each answers with JSON pointers into the behaviour result.

Patterns are searched in text that the sample chose: they are linear (no nested or overlapping repetition) on purpose.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from posixpath import basename
from typing import Protocol

from services.results.domain.bounds import EVIDENCE_MAX
from services.results.domain.inputs import Behaviour, SeenNetwork, SeenProcess

CHANGED = frozenset({"created", "written", "renamed", "linked", "chmod"})
REMOVED = frozenset({"deleted"})
READ = frozenset({"read"})

Finding = tuple[str, ...]
"""JSON pointers of what was found; empty: nothing."""


class Condition(Protocol):
    """A question to a behaviour result."""

    def find(self, behaviour: Behaviour) -> Finding:
        """Where the answer is yes."""


@dataclass(frozen=True)
class FileIs:
    """A file whose path matches was treated in one of these ways, or the sample tried to."""

    actions: frozenset[str]
    path: re.Pattern[str]

    def find(self, behaviour: Behaviour) -> Finding:
        """The files."""
        return _bounded(
            f"/files/{index}"
            for index, file in enumerate(behaviour.files)
            if not self.actions.isdisjoint(file.actions) and self.path.search(file.path)
        )


@dataclass(frozen=True)
class ManyFiles:
    """At least so many different files, matching the path, were treated so."""

    actions: frozenset[str]
    path: re.Pattern[str]
    at_least: int

    def find(self, behaviour: Behaviour) -> Finding:
        """The first of the files, when there are enough."""
        found = [
            f"/files/{index}"
            for index, file in enumerate(behaviour.files)
            if not self.actions.isdisjoint(file.actions) and self.path.search(file.path)
        ]
        return tuple(found[:EVIDENCE_MAX]) if len(found) >= self.at_least else ()


@dataclass(frozen=True)
class Runs:
    """A process other than the sample's first runs a program of one of these names, its command line matching."""

    programs: frozenset[str]
    command_line: re.Pattern[str] | None = None

    def find(self, behaviour: Behaviour) -> Finding:
        """The processes."""
        return _bounded(f"/processes/{index}" for index, process in _started(behaviour) if self._fits(process))

    def _fits(self, process: SeenProcess) -> bool:
        names = {basename(name) for name in (process.exe, *process.argv[:1]) if name}
        if names.isdisjoint(self.programs):
            return False
        return self.command_line is None or bool(self.command_line.search(" ".join(process.argv)[:8192]))


@dataclass(frozen=True)
class RunsFrom:
    """A process other than the sample's first runs a program that the sample wrote."""

    def find(self, behaviour: Behaviour) -> Finding:
        """The processes."""
        written = {file.path for file in behaviour.files if not CHANGED.isdisjoint(file.actions)}
        return _bounded(f"/processes/{index}" for index, process in _started(behaviour) if process.exe in written)


@dataclass(frozen=True)
class ManyProcesses:
    """At least so many processes were started."""

    at_least: int

    def find(self, behaviour: Behaviour) -> Finding:
        """The processes as a whole."""
        return ("/processes",) if len(behaviour.processes) >= self.at_least else ()


@dataclass(frozen=True)
class Reaches:
    """The sample tried to reach another host, on one of these ports where any are named."""

    ports: frozenset[int] = frozenset()

    def find(self, behaviour: Behaviour) -> Finding:
        """The attempts."""
        return _bounded(
            f"/network/{index}"
            for index, attempt in enumerate(behaviour.network)
            if is_remote(attempt) and (not self.ports or attempt.port in self.ports)
        )


@dataclass(frozen=True)
class ReachesMany:
    """The sample tried to reach at least so many different hosts."""

    at_least: int

    def find(self, behaviour: Behaviour) -> Finding:
        """The first of the attempts, when there are enough."""
        first_by_address: dict[str, str] = {}
        for index, attempt in enumerate(behaviour.network):
            if attempt.address and is_remote(attempt):
                first_by_address.setdefault(attempt.address, f"/network/{index}")
        pointers = tuple(first_by_address.values())
        return pointers[:EVIDENCE_MAX] if len(pointers) >= self.at_least else ()


@dataclass(frozen=True)
class AsksForNames:
    """The sample sent a DNS question."""

    def find(self, behaviour: Behaviour) -> Finding:
        """The questions."""
        return _bounded(f"/network/{index}" for index, attempt in enumerate(behaviour.network) if attempt.query)


@dataclass(frozen=True)
class DeletesItself:
    """The file that the sample was started from was removed while it ran."""

    def find(self, behaviour: Behaviour) -> Finding:
        """The removals."""
        if not behaviour.processes:
            return ()
        first = behaviour.processes[0]
        own = {name for name in (first.exe, *first.argv[:2]) if name and name.startswith("/")}
        return _bounded(
            f"/files/{index}"
            for index, file in enumerate(behaviour.files)
            if file.path in own and not REMOVED.isdisjoint(file.actions)
        )


@dataclass(frozen=True)
class Happens:
    """An event of one of these names stands in the timeline."""

    events: frozenset[str]
    detail: re.Pattern[str] | None = None

    def find(self, behaviour: Behaviour) -> Finding:
        """The events."""
        return _bounded(
            f"/timeline/{index}"
            for index, event in enumerate(behaviour.timeline)
            if event.event in self.events and (self.detail is None or self.detail.search(event.detail))
        )


@dataclass(frozen=True)
class AnyOf:
    """One of several questions has an answer."""

    conditions: tuple[Condition, ...]

    def find(self, behaviour: Behaviour) -> Finding:
        """The answers of all of them."""
        return _bounded(pointer for condition in self.conditions for pointer in condition.find(behaviour))


def _started(behaviour: Behaviour) -> Iterator[tuple[int, SeenProcess]]:
    """The processes that run a program of their own: not the sample's first, and no mere copy of its parent."""
    programs: dict[int, tuple[str | None, list[str]]] = {}
    for index, process in enumerate(behaviour.processes):
        program = (process.exe, process.argv)
        is_copy = process.ppid is not None and programs.get(process.ppid) == program
        programs[process.pid] = program
        if index and not is_copy:
            yield index, process


def is_remote(attempt: SeenNetwork) -> bool:
    """Whether the attempt names a host other than the guest itself."""
    if not attempt.address:
        return False
    try:
        address = ip_address(attempt.address)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _bounded(pointers: Iterator[str]) -> Finding:
    return tuple(islice(pointers, EVIDENCE_MAX))
