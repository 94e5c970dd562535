"""One container while it is read: what it lists, and what comes out of it, counted and never under its names."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from malbox.sdk.file_names import note_name, note_target
from malbox.sdk.findings import Findings, printable

from .budget import Budget

OTHERS_MAX = 200
NAME_MAX_CHARS = 200
TOO_LARGE = "to unpack it takes more memory than a plugin may use"


@dataclass(frozen=True)
class Member:
    """What a container says of one of its entries. Nothing of it is believed; it is only shown."""

    name: str
    stated_bytes: int | None = None
    kind: str = "file"
    target: str = ""


@dataclass
class Visit:
    """A container, the bounds it shares with all others of the run, and what it brought."""

    where: str
    format: str
    depth: int
    packed_bytes: int
    passwords: tuple[str, ...]
    budget: Budget
    findings: Findings
    others: list[dict[str, object]]
    new_file: Callable[[], Path]
    children: Callable[[], int]
    kept: list["Spool"] = field(default_factory=list)
    unpacked_bytes: int = 0
    entries: int = 0
    is_encrypted: bool = False
    password: str | None = None
    has_problems: bool = False

    def member(self, member: Member) -> "Spool | None":
        """Counts the entry; where to write it, if it is a file that is to be unpacked. Raises BudgetSpent."""
        self.entry()
        if member.kind != "file":
            self._other(member)
            return None
        return self.spool(member.name)

    def spool(self, name: str) -> "Spool | None":
        """A file that is to be unpacked, or None: no more are."""
        note_name(name, self.findings)
        where = f"{self.where} > {printable(name, NAME_MAX_CHARS)}"
        if not self.budget.has_child(self.children() + len(self.kept), where):
            return None
        return Spool(self, where)

    def entry(self) -> None:
        """One more entry was met. Raises BudgetSpent."""
        self.entries += 1
        self.budget.entry(self.where)

    def keep(self, spool: "Spool") -> None:
        """The file came out whole."""
        self.kept.append(spool)

    def problem(self, words: str) -> None:
        """Something could not be read."""
        self.has_problems = True
        self.findings.problem(words)

    def written(self, spool: "Spool", size: int) -> None:
        """More came out. Raises BudgetSpent, ArchiveSpent."""
        self.unpacked_bytes += size
        self.budget.write(
            size,
            of_file=spool.size_bytes,
            of_archive=self.unpacked_bytes,
            packed=self.packed_bytes,
            where=spool.where,
        )

    def as_json(self) -> dict[str, object]:
        """What is told of the container."""
        return {
            "path": self.where,
            "format": self.format,
            "depth": self.depth,
            "entries": self.entries,
            "packed_bytes": self.packed_bytes,
            "unpacked_bytes": self.unpacked_bytes,
            "is_encrypted": self.is_encrypted,
            "password": self.password,
        }

    def _other(self, member: Member) -> None:
        note_name(member.name, self.findings)
        note_target(member.target, self.findings)
        if len(self.others) >= OTHERS_MAX:
            self.findings.truncated()
            return
        path = f"{self.where} > {printable(member.name, NAME_MAX_CHARS)}"
        self.others.append({"path": path, "kind": member.kind, "target": printable(member.target, NAME_MAX_CHARS)})


class Spool:
    """A file of the scratch directory that an entry is written to, under a name of ours."""

    def __init__(self, visit: Visit, where: str) -> None:
        self._visit = visit
        self.where = where
        self.path = visit.new_file()
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._stream = self.path.open("wb")

    @property
    def sha256(self) -> str:
        """Of what was written."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Counted first, then written. Raises BudgetSpent, ArchiveSpent."""
        self.size_bytes += len(chunk)
        self._visit.written(self, len(chunk))
        self._hash.update(chunk)
        self._stream.write(chunk)

    def restart(self) -> None:
        """What was written was none; it stays counted."""
        self._stream.seek(0)
        self._stream.truncate()
        self.size_bytes, self._hash = 0, hashlib.sha256()

    def close(self) -> None:
        """The bytes can be read from the path."""
        self._stream.close()

    def remove(self) -> None:
        """The file is gone."""
        self._stream.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is not None:
            self.remove()
