"""Which files found inside a sample become tasks of its submission, and why the others do not. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from contracts.plugins import FoundChild
from contracts.submission import AnalysisRequest, ChildKind, ChildrenChoice
from services.intake.domain.family import Family, Member, child_of
from services.intake.domain.kinds import RANK, kind_of

MIB = 1024 * 1024


@dataclass(frozen=True)
class ChildLimits:
    """What children may come to, whatever a submission asks."""

    depth_max: int = 3
    per_task_max: int = 16
    tasks_per_submission_max: int = 64
    bytes_max: int = 256 * MIB
    kinds: tuple[ChildKind, ...] = get_args(ChildKind)

    def narrowed(self, wish: ChildrenChoice | None) -> "ChildLimits":
        """The same, or less where the submission asks for less."""
        if wish is None:
            return self
        return replace(
            self,
            depth_max=min(self.depth_max, wish.depth),
            per_task_max=min(self.per_task_max, wish.per_task),
            kinds=wish.kinds,
        )


@dataclass(frozen=True)
class Choice:
    """A file found inside, the task that analyses it, if any, and why none is made for it."""

    found: FoundChild
    task_id: str | None = None
    reason: str = ""
    joins: Member | None = None


def choose(
    found: Sequence[FoundChild], family: Family, parent: Member, limits: ChildLimits, *, room: int
) -> list[Choice]:
    """A choice for each file, in their order. `room`: how many more tasks of the owner may wait."""
    chooser = _Chooser(family, parent, limits, room)
    order = sorted(range(len(found)), key=lambda place: _rank(found[place]))
    chosen = {place: chooser.choose(found[place]) for place in order}
    return [chosen[place] for place in range(len(found))]


def inherited(request: AnalysisRequest, package: str) -> AnalysisRequest:
    """The parent's request without what was meant for the parent's own bytes."""
    opens = package in ("archive", "generic")
    mine = {"package": "auto", "archive_entry": None, "arguments": (), "password": request.password if opens else None}
    return request.model_copy(update=mine)


def _rank(child: FoundChild) -> int:
    kind = kind_of(child)
    return len(RANK) if kind is None else RANK[kind]


class _Chooser:
    """Counts what was chosen until now."""

    def __init__(self, family: Family, parent: Member, limits: ChildLimits, room: int) -> None:
        self._family = family
        self._parent = parent
        self._lineage = {member.sha256 for member in family.lineage(parent)}
        self._limits = limits
        self._room = room
        self._joined: dict[str, Member] = {}
        self._bytes = sum(child.size_bytes for child in family.children)

    def choose(self, found: FoundChild) -> Choice:
        """What becomes of the file."""
        known = self._joined.get(found.blob.sha256) or self._family.of_content(self._parent.root, found.blob.sha256)
        if found.blob.sha256 in self._lineage:
            return Choice(found, reason="it is the sample itself, or what that was found in")
        if known is not None:
            return Choice(found, known.task_id, "the submission has a task for it already")
        reason = self._of_itself(found) or self._of_limits(found)
        if reason:
            return Choice(found, reason=reason)
        child = child_of(self._parent, found)
        self._joined[child.sha256] = child
        self._bytes += child.size_bytes
        return Choice(found, child.task_id, joins=child)

    def _of_itself(self, found: FoundChild) -> str:
        kind = kind_of(found)
        if not found.package:
            return "what it is could not be determined"
        if kind is None:
            return f"no program, script, document or archive: {found.mime[:80]}"
        if kind not in self._limits.kinds:
            return f"it is a {kind}; asked for are: {', '.join(self._limits.kinds)}"
        return ""

    def _of_limits(self, found: FoundChild) -> str:
        limits, joined, depth = self._limits, len(self._joined), self._parent.depth + 1
        met = {
            "the submission was cancelled": self._family.closed_by is not None,
            f"limit: it is {depth} deep; {limits.depth_max} is as deep as it goes": depth > limits.depth_max,
            f"limit: {limits.per_task_max} children of one task": joined >= limits.per_task_max,
            f"limit: {limits.tasks_per_submission_max} tasks of one submission": (
                len(self._family.members) + joined >= limits.tasks_per_submission_max
            ),
            f"limit: {limits.bytes_max} bytes of all children of one submission": (
                self._bytes + found.blob.size_bytes > limits.bytes_max
            ),
            "limit: the owner has as many tasks that wait as one may have": joined >= self._room,
        }
        return next((reason for reason, is_met in met.items() if is_met), "")
