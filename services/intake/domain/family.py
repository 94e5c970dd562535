"""Every task of one submission: those that were asked for, and those of files found inside their samples.

The one place that decides about a submission's children, so that two services that hear of the same file make one task.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from eventsourcing.domain import Aggregate

from contracts.ids import derived, uuid_of
from contracts.plugins import FoundChild
from contracts.submission import Parentage


@dataclass(frozen=True)
class Member:
    """One task. `root` is the task that was asked for, at whose sample it hangs: the same profile, the same options."""

    task_id: str
    root: str
    sha256: str
    size_bytes: int
    depth: int = 0
    parent: str | None = None
    result_id: str = ""
    plugin: str = ""
    name: str = ""
    package: str = "auto"

    @property
    def parentage(self) -> Parentage | None:
        """Where its sample was found, unless it was submitted."""
        if self.parent is None:
            return None
        return Parentage(
            task_id=self.parent, depth=self.depth, result_id=self.result_id, plugin=self.plugin, name=self.name
        )


class Event(Aggregate.Event):
    """Something happened to the submission's tasks."""

    TOPIC: ClassVar[str] = "family:event"

    def apply(self, aggregate: Any) -> None:
        """What it says is kept."""
        self.keep(aggregate)

    def keep(self, family: Any) -> None:
        """What the event adds."""


class Begun(Event, Aggregate.Created):
    """These tasks were asked for."""

    TOPIC: ClassVar[str] = "family:begun"
    submission_id: str
    members: list[dict[str, Any]]


class ChildrenJoined(Event):
    """It was decided which files inside the task's sample are analysed; these are tasks now."""

    TOPIC: ClassVar[str] = "family:children-joined"
    task_id: str
    members: list[dict[str, Any]]
    said: dict[str, Any]

    def keep(self, family: "Family") -> None:
        """They belong to it, and nothing more is decided about that task."""
        family.decided[self.task_id] = self.said
        family.take_in([Member(**member) for member in self.members])


class Closed(Event):
    """The submission was cancelled."""

    TOPIC: ClassVar[str] = "family:closed"
    by: str

    def keep(self, family: "Family") -> None:
        """Nobody joins any more."""
        family.closed_by = self.by


class Family(Aggregate):
    """The tasks of one submission."""

    TOPIC: ClassVar[str] = "family"

    Event = Event
    Begun = Begun
    ChildrenJoined = ChildrenJoined
    Closed = Closed

    def __init__(self, submission_id: str, members: list[dict[str, Any]]) -> None:
        self.submission_id = submission_id
        self.members: dict[str, Member] = {}
        self.decided: dict[str, dict[str, Any]] = {}
        """What was said of the files inside each task's sample, for whoever did not hear it."""
        self.closed_by: str | None = None
        self.take_in([Member(**member) for member in members])

    @classmethod
    def begin(cls, submission_id: str, members: list[Member], at: datetime) -> "Family":
        """The tasks that were asked for."""
        return cls._create(
            cls.Begun,
            id=uuid_of(submission_id),
            timestamp=at,
            submission_id=submission_id,
            members=[vars(member) for member in members],
        )

    @property
    def children(self) -> tuple[Member, ...]:
        """The tasks that nobody asked for by name."""
        return tuple(member for member in self.members.values() if member.parent is not None)

    def lineage(self, member: Member) -> tuple[Member, ...]:
        """The task, and those whose samples its own was found in, up to what was submitted."""
        found = [member]
        while found[-1].parent is not None:
            found.append(self.members[found[-1].parent])
        return tuple(found)

    def of_content(self, root: str, sha256: str) -> Member | None:
        """The task that analyses that content as that root was asked for, if there is one."""
        return next((one for one in self.members.values() if (one.root, one.sha256) == (root, sha256)), None)

    def join(self, parent: Member, children: list[Member], said: dict[str, Any], at: datetime) -> None:
        """It is decided about the files inside that task's sample, for good, and this is what is said of it."""
        self.trigger_event(
            ChildrenJoined,
            timestamp=at,
            task_id=parent.task_id,
            members=[vars(child) for child in children],
            said=said,
        )

    def close(self, by: str, at: datetime) -> None:
        """Nobody joins any more."""
        if self.closed_by is None:
            self.trigger_event(Closed, timestamp=at, by=by)

    def take_in(self, members: list[Member]) -> None:
        """They belong to it."""
        self.members |= {member.task_id: member for member in members}


def child_of(parent: Member, found: FoundChild) -> Member:
    """The task of a file inside: the same for the same file and parent, whoever decides and how often."""
    return Member(
        task_id=derived("tsk", parent.task_id, found.blob.sha256),
        root=parent.root,
        sha256=found.blob.sha256,
        size_bytes=found.blob.size_bytes,
        depth=parent.depth + 1,
        parent=parent.task_id,
        result_id=found.result_id,
        plugin=found.plugin,
        name=found.name,
        package=found.package,
    )
