"""The lifecycle of a task as a table. What is not drawn cannot happen; the diagram in the docs is made from it."""

from types import MappingProxyType

from contracts.scheduler import TERMINAL_STATES, TaskState

KNOWN: MappingProxyType[TaskState, str] = MappingProxyType(
    {
        "submitted": "accepted; what will run is being decided",
        "queued": "waits for a machine",
        "preparing": "a machine was chosen and is being made ready for it",
        "running": "its sample may be running, or its static analysis is",
        "collecting": "watching is over; evidence is being collected",
        "reporting": "every stage has ended; the report is being sealed and the machine cleaned",
        "completed": "the report is sealed, and the machine is clean or out of the pool",
        "failed": "ended without evidence from the guest; the reason says why",
        "timed_out": "its hard limit passed, or the budget of a phase that it cannot do without",
        "cancelled": "somebody ended it",
        "unserviceable": "no known machine could ever run it",
    }
)

_STAGES_MAY_END: tuple[TaskState, ...] = ("submitted", "queued", "preparing", "running", "collecting")

_MAY_BE_JUDGED_AGAIN: tuple[TaskState, ...] = (
    "reporting",
    "completed",
    "failed",
    "timed_out",
    "cancelled",
    "unserviceable",
)

TRANSITIONS: MappingProxyType[tuple[TaskState, str], TaskState] = MappingProxyType(
    {
        ("submitted", "Planned"): "submitted",
        ("submitted", "Refused"): "unserviceable",
        ("submitted", "Queued"): "queued",
        ("queued", "Matched"): "preparing",
        ("preparing", "MatchRefused"): "queued",
        ("preparing", "MachineGranted"): "running",
        ("preparing", "AttemptFailed"): "preparing",
        ("running", "ObservationStarted"): "running",
        ("running", "ObservationEnded"): "collecting",
        ("queued", "Stranded"): "queued",
        ("running", "AttemptFailed"): "running",
        ("collecting", "AttemptFailed"): "collecting",
        ("preparing", "Queued"): "queued",
        ("running", "Queued"): "queued",
        ("collecting", "Queued"): "queued",
        **{(state, "ReportRequested"): "reporting" for state in _STAGES_MAY_END},
        **{(state, "StageRequested"): "running" if state == "submitted" else state for state in _STAGES_MAY_END},
        **{
            (state, event): state
            for state in _STAGES_MAY_END
            for event in ("StageBegan", "StageEnded", "CancelRequested")
        },
        **{
            (state, event): state
            for state in (*_STAGES_MAY_END, "reporting")
            for event in ("MachineReturned", "MachineLeft", "BudgetSpent")
        },
        ("reporting", "ReportSealed"): "reporting",
        ("reporting", "CancelRequested"): "reporting",
        ("reporting", "Completed"): "completed",
        ("reporting", "Failed"): "failed",
        ("reporting", "TimedOut"): "timed_out",
        ("reporting", "Cancelled"): "cancelled",
        ("reporting", "Unserviceable"): "unserviceable",
        **{(state, "VerdictChanged"): state for state in _MAY_BE_JUDGED_AGAIN},
    }
)


def successor(state: TaskState, event: str) -> TaskState | None:
    """The state that the event leads to, or None when it cannot happen."""
    return TRANSITIONS.get((state, event))


def is_terminal(state: TaskState) -> bool:
    """Whether nothing can happen any more."""
    return state in TERMINAL_STATES
