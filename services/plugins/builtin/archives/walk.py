"""Opens a container, and those inside it, until nothing is left to open or a budget is used up."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import puremagic

from malbox.sdk.cpu_budget import OutOfTime
from malbox.sdk.findings import Findings, printable

from . import sevenzip, streams, zips
from .budget import ArchiveSpent, Budget, BudgetSpent
from .kinds import recognise
from .visit import TOO_LARGE, Spool, Visit

ARCHIVES_MAX = 200
HEAD_BYTES = 8 * 1024
BOMB_BUDGETS = frozenset({"ratio", "overlap", "bytes", "depth", "entries"})
"""Bounds that no archive which somebody packed to be read comes near."""


class CannotOpen(Exception):
    """There is no reader for such a container."""


@dataclass(frozen=True)
class Child:
    """A file found inside that is none of the containers which were opened."""

    spool: Spool
    kind: str

    def as_json(self, name: str) -> dict[str, object]:
        """What is told of it. `path` is how the containers name it: for display only."""
        return {
            "name": name,
            "path": self.spool.where,
            "sha256": self.spool.sha256,
            "media_type": media_type(self.spool.path),
            "size_bytes": self.spool.size_bytes,
            "from": self.kind,
        }


@dataclass
class Walk:
    """One run over one sample."""

    scratch: Path
    passwords: tuple[str, ...]
    budget: Budget = field(default_factory=Budget)
    findings: Findings = field(default_factory=Findings)
    archives: list[dict[str, object]] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    others: list[dict[str, object]] = field(default_factory=list)
    repeated: int = 0
    is_over: bool = False
    _seen: set[str] = field(default_factory=set)
    _pending: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def open(self, sample: Path, name: str, kind: str) -> None:
        """The sample and all inside it were read, as far as the budgets go. Raises IsDocument for one that is none."""
        self._open(sample, printable(name, 100), kind, depth=1)

    @property
    def is_empty_handed(self) -> bool:
        """Whether there is nothing to tell but what went wrong."""
        has_entries = any(archive["entries"] for archive in self.archives)
        return not (has_entries or self.budget.exceeded or self.findings.names)

    def as_json(self) -> dict[str, Any]:
        """The result."""
        for one in self.budget.exceeded:
            if one["budget"] in BOMB_BUDGETS:
                self.findings.trait("archive_bomb", f"{one['budget']}: {one['where']}")
        return {
            "archives": self.archives,
            "children": [child.as_json(f"children/{number:04d}") for number, child in enumerate(self.children, 1)],
            "others": self.others,
            "repeated_files": self.repeated,
            "exceeded": self.budget.exceeded,
            **self.findings.as_json(),
        }

    def _open(self, path: Path, where: str, kind: str, *, depth: int) -> bool:
        """Whether something was inside, or nothing is wrong with that there was not. Raises IsDocument."""
        visit = self._visit(path, where, kind, depth)
        fault = self._fault(path, kind, visit)
        if fault:
            visit.problem(fault)
        if visit.is_encrypted:
            words = f"opened with the password {visit.password}" if visit.password else "it was not opened"
            self.findings.trait("archive_encrypted", f"{where}: {words}")
        if len(self.archives) < ARCHIVES_MAX:
            self.archives.append(visit.as_json())
        self._pending += len(visit.kept)
        for spool in visit.kept:
            self._pending -= 1
            self._one(spool, kind, depth)
        return bool(visit.kept) or not visit.has_problems

    def _fault(self, path: Path, kind: str, visit: Visit) -> str:
        """What ended the reading early, if anything. Raises IsDocument."""
        try:
            _read(path, kind, visit)
        except zips.IsDocument:
            raise
        except BudgetSpent as spent:
            self.is_over = True
            return str(spent)
        except OutOfTime:
            self.is_over = True
            return f"{visit.where}: the time was over before its end"
        except ArchiveSpent as spent:
            return str(spent)
        except MemoryError:
            return f"{visit.where}: {TOO_LARGE}"
        except Exception as error:  # noqa: BLE001 - the libraries meet hostile bytes with whatever comes
            return f"{visit.where}: {type(error).__name__}: {error}"
        return ""

    def _one(self, spool: Spool, kind: str, depth: int) -> None:
        if spool.sha256 in self._seen:
            self.repeated += 1
            spool.remove()
            return
        self._seen.add(spool.sha256)
        inner = None if self.is_over else recognise(spool.path)
        if inner is not None and self.budget.has_depth(depth + 1, spool.where) and self._opened(spool, inner, depth):
            spool.remove()
        else:
            self.children.append(Child(spool, kind))

    def _opened(self, spool: Spool, kind: str, depth: int) -> bool:
        try:
            return self._open(spool.path, spool.where, kind, depth=depth + 1)
        except zips.IsDocument:
            return False

    def _visit(self, path: Path, where: str, kind: str, depth: int) -> Visit:
        return Visit(
            where=where,
            format=kind,
            depth=depth,
            packed_bytes=path.stat().st_size,
            passwords=self.passwords,
            budget=self.budget,
            findings=self.findings,
            others=self.others,
            new_file=lambda: self.scratch / f"{next(self._numbers):06d}",
            children=lambda: len(self.children) + self._pending,
        )


def _read(path: Path, kind: str, visit: Visit) -> None:
    if kind == "zip":
        zips.read(path, visit)
        return
    try:
        streams.read(path, kind, visit)
    except streams.NeedsPassword:
        visit.is_encrypted = True
        if kind != "7z":
            raise CannotOpen(f"encrypted {kind} archives cannot be opened") from None
        for spool in visit.kept:
            spool.remove()
        visit.kept.clear()
        visit.entries = 0
        sevenzip.read(path, visit)


def media_type(path: Path) -> str:
    """By the first bytes."""
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    try:
        guesses = [guess for guess in puremagic.magic_string(head) if guess.mime_type]
    except (puremagic.PureError, ValueError):
        guesses = []
    if guesses:
        return str(max(guesses, key=lambda guess: (guess.confidence, guess.mime_type)).mime_type)
    try:
        head.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "application/octet-stream" if b"\0" in head or not head else "text/plain"
