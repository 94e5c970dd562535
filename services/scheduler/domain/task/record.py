"""What a task's events add up to: the fields of its record, and what can be read off them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from contracts.intake import TaskSubmitted
from contracts.planning import Budgets, Phase, PhaseCost, Plan
from contracts.plugins import RunError
from contracts.scheduler import GuestAssignment, LostAttempt, MachineCondition, TaskState
from contracts.submission import AnalysisRequest, SampleRef
from services.scheduler.domain.lifecycle import is_terminal, successor

PHASES: tuple[Phase, ...] = ("queue", "boot", "observation", "grace", "collection", "host_plugins", "cleanup")
Outcome = Literal["completed", "failed", "timed_out", "cancelled", "unserviceable"]


class NotPossible(Exception):
    """The task's state does not allow this; nothing was changed. The message says why."""


@dataclass(frozen=True)
class Returned:
    """A lease that the task gave back or lost, and whose machine is not clean yet."""

    host: str
    lease_id: str
    epoch: int
    at: datetime


class Record:
    """The state of one task. Only its events change it."""

    def begin(self, asked: TaskSubmitted) -> None:
        """A task of which nothing else is known."""
        self.task_id = asked.task_id
        self.submission_id = asked.submission_id
        self.owner = asked.owner
        self.sample: SampleRef = asked.sample
        self.request: AnalysisRequest = asked.request
        self.parent = asked.parent
        self.state: TaskState = "submitted"
        self.state_since: datetime | None = None
        self.why = "what will run is being decided"
        self.plan = Plan(stages=())
        self.budgets = Budgets(observation_s=asked.request.timeout_s)
        self.spent_s: dict[str, float] = {}
        self.open_phases: dict[str, datetime] = {}
        self.overrun_phases: list[str] = []
        self.stages: dict[str, str] = {}
        self.stage_since: dict[str, datetime] = {}
        self.stage_began: dict[str, datetime] = {}
        self.result_ids: list[str] = []
        self.errors: list[RunError] = []
        self.attempts = 0
        self.matches = 0
        self.lost_attempts: list[LostAttempt] = []
        self.machine_id: str | None = None
        self.machine_host = ""
        self.operation_id = ""
        self.asked_for_at: datetime | None = None
        self.guest: GuestAssignment | None = None
        self.ran_on: GuestAssignment | None = None
        self.granted_at: datetime | None = None
        self.machine: MachineCondition = "none"
        self.reverting: set[str] = set()
        self.returned: dict[str, Returned] = {}
        self.left: dict[str, tuple[int, str]] = {}
        self.over_until: dict[str, int] = {}
        self.observed_from: datetime | None = None
        self.ended_by: str | None = None
        self.cancelled_by: str | None = None
        self.cancelled_at: datetime | None = None
        self.is_stranded = False
        self.outcome: Outcome | None = None
        self.outcome_reason = ""
        self.report_ready_at: datetime | None = None
        self.verdict: str | None = None
        self.score: int | None = None
        self.verdict_revision = 0
        self.history: list[tuple[str, datetime, str]] = []

    @property
    def is_over(self) -> bool:
        """Whether nothing can happen any more."""
        return is_terminal(self.state)

    @property
    def wants_machine(self) -> bool:
        """Whether it waits for a machine; one that gave up is queued by name only, until its static stage ends."""
        return self.state == "queued" and self.stages.get("guest") == "pending"

    @property
    def is_guest_due(self) -> bool:
        """Whether the guest stage is planned and has not ended."""
        return self.stages.get("guest") in ("pending", "running")

    @property
    def hold_s(self) -> int:
        """How long a lease for this task may last, seconds."""
        return self.budgets.hold_s

    @property
    def attempt_reasons(self) -> list[str]:
        """Why each attempt that was lost was."""
        return [lost.reason for lost in self.lost_attempts]

    def running_stages(self) -> list[str]:
        """The stages that are running now."""
        return [name for name, state in self.stages.items() if state == "running"]

    def attempt_of(self, stage: str) -> int:
        """The attempt that the stage's messages carry: only the guest stage is tried again."""
        return max(1, self.attempts) if stage == "guest" else 1

    def phases(self, now: datetime | None = None) -> tuple[PhaseCost, ...]:
        """Each phase with its budget and what it took; up to now for one that goes on."""
        spent = dict(self.spent_s)
        for phase, since in self.open_phases.items() if now else ():
            for part, seconds in self._parts(phase, (now - since).total_seconds() if now else 0.0):
                spent[part] = spent.get(part, 0.0) + max(0.0, seconds)
        allowed = {
            phase: self.budgets.observation_s if phase == "observation" else getattr(self.budgets, f"{phase}_s")
            for phase in PHASES
        }
        return tuple(
            PhaseCost(phase=phase, budget_s=allowed[phase], spent_s=round(spent.get(phase, 0.0), 3)) for phase in PHASES
        )

    def enter(self, phase: Phase, at: datetime) -> None:
        """The phase goes on from now."""
        self.open_phases.setdefault(phase, at)

    def leave(self, at: datetime, *phases: Phase) -> None:
        """Those of the phases that went on are over; what they took is added up."""
        for phase in phases:
            since = self.open_phases.pop(phase, None)
            if since is not None:
                for part, seconds in self._parts(phase, (at - since).total_seconds()):
                    self.spent_s[part] = self.spent_s.get(part, 0.0) + max(0.0, seconds)

    def move(self, event: str, at: datetime) -> None:
        """The state is what the table says."""
        state = successor(self.state, event)
        if state is None:
            raise NotPossible(f"{event} in {self.state}")
        if state != self.state:
            self.history.append((self.state, self.state_since or at, self.why))
            self.state_since = at
        self.state = state

    def _parts(self, phase: str, seconds: float) -> tuple[tuple[str, float], ...]:
        """Watching beyond the window is grace."""
        if phase != "observation":
            return ((phase, seconds),)
        window_s = min(seconds, float(self.budgets.observation_s))
        return (("observation", window_s), ("grace", seconds - window_s))
