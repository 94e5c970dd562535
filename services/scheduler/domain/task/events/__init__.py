"""What happens to a task, and what each event adds to its record. Every version that was ever stored stays readable."""

from services.scheduler.domain.task.events.base import Event
from services.scheduler.domain.task.events.ends import (
    Cancelled,
    CancelRequested,
    Completed,
    Failed,
    ReportRequested,
    ReportSealed,
    TimedOut,
    Unserviceable,
    VerdictChanged,
)
from services.scheduler.domain.task.events.machine import (
    MachineGranted,
    MachineLeft,
    MachineReturned,
    Matched,
    MatchRefused,
)
from services.scheduler.domain.task.events.planning import (
    Planned,
    Queued,
    Refused,
    Stranded,
    Submitted,
)
from services.scheduler.domain.task.events.stages import (
    AttemptFailed,
    BudgetSpent,
    ObservationEnded,
    ObservationStarted,
    StageBegan,
    StageEnded,
    StageOutcome,
    StageRequested,
)

__all__ = [
    "AttemptFailed",
    "BudgetSpent",
    "CancelRequested",
    "Cancelled",
    "Completed",
    "Event",
    "Failed",
    "MachineGranted",
    "MachineLeft",
    "MachineReturned",
    "MatchRefused",
    "Matched",
    "ObservationEnded",
    "ObservationStarted",
    "Planned",
    "Queued",
    "Refused",
    "ReportRequested",
    "ReportSealed",
    "StageBegan",
    "StageEnded",
    "StageOutcome",
    "StageRequested",
    "Stranded",
    "Submitted",
    "TimedOut",
    "Unserviceable",
    "VerdictChanged",
]
