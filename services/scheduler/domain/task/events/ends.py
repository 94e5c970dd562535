"""How a task comes to its end: cancelled, reported, over."""

from typing import Any, ClassVar

from services.scheduler.domain.task.events.base import Event
from services.scheduler.domain.task.record import Outcome, Record


class CancelRequested(Event):
    """Somebody wants it to end."""

    TOPIC: ClassVar[str] = "task:cancel-requested"
    by: str
    reason: str

    def keep(self, task: Record) -> None:
        """Keep who."""
        task.cancelled_by = self.by
        task.cancelled_at = self.timestamp
        task.why = f"being cancelled by {self.by}"
        if task.outcome is not None:
            task.outcome, task.outcome_reason = "cancelled", f"cancelled by {self.by}"


class ReportRequested(Event):
    """Every stage has ended."""

    TOPIC: ClassVar[str] = "task:report-requested"
    outcome: Outcome
    reason: str

    def keep(self, task: Record) -> None:
        """Keep how it will end."""
        task.outcome = self.outcome
        task.outcome_reason = self.reason
        task.why = "the report is being sealed and the machine cleaned"


class ReportSealed(Event):
    """The report can be read."""

    TOPIC: ClassVar[str] = "task:report-sealed"
    class_version: ClassVar[int] = 2
    verdict: str
    score: int
    missing_results: int

    def keep(self, task: Record) -> None:
        """Keep what it says; a report without all its results is not a completed task."""
        if self.missing_results and task.outcome == "completed":
            task.outcome = "failed"
            task.outcome_reason = f"{self.missing_results} results were lost; the report names them"
        task.report_ready_at = self.timestamp
        if not task.verdict_revision:  # a later word about the verdict may have come before the first
            task.verdict = self.verdict
            task.score = self.score
        task.why = "the machine is being cleaned"

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 did not count lost results."""
        state["missing_results"] = 0


class VerdictChanged(Event):
    """What was found inside the sample was judged after its report was sealed."""

    TOPIC: ClassVar[str] = "task:verdict-changed"
    verdict: str
    score: int
    revision: int

    def keep(self, task: Record) -> None:
        """Keep the verdict of now."""
        task.verdict = self.verdict
        task.score = self.score
        task.verdict_revision = self.revision


class Completed(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:completed"


class Failed(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:failed"


class TimedOut(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:timed-out"


class Cancelled(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:cancelled"


class Unserviceable(Event):
    """The end."""

    TOPIC: ClassVar[str] = "task:unserviceable"
