"""What the scheduler says and orders."""

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.envelope import Command, Message
from contracts.ids import LeaseId, MachineId, ResultId, SubmissionId, TaskId
from contracts.limits import RESULTS_NAMED_MAX
from contracts.machines import Acceleration, GuestEndpoint, LeaseRef
from contracts.planning import Budgets, EndedBy, PhaseCost, Plan, PlannedStage
from contracts.plugins import RunError
from contracts.submission import AnalysisRequest, Parentage, Platform, Route, SampleRef

TaskState = Literal[
    "submitted",
    "queued",
    "preparing",
    "running",
    "collecting",
    "reporting",
    "completed",
    "failed",
    "timed_out",
    "cancelled",
    "unserviceable",
]
TERMINAL_STATES: frozenset[str] = frozenset({"completed", "failed", "timed_out", "cancelled", "unserviceable"})
AttemptOutcome = Literal["failed", "guest_lost", "lease_lost", "not_ready"]
"""Of an attempt that is not the last: its stage could not be done (earlier releases recorded all of them so), its guest
no longer answered, its lease ended without the task's word, its machine was not ready in time."""
MachineCondition = Literal["none", "leased", "reverting", "clean", "quarantined"]


class TaskFact(Message):
    """A fact about one task."""

    PRODUCER: ClassVar[str] = "scheduler"
    THING: ClassVar[str] = "task"

    task_id: TaskId

    def subject(self) -> str:
        """The task."""
        return self.task_id


class TaskPlanned(TaskFact):
    """What will run is frozen."""

    WHAT: ClassVar[str] = "planned"
    submission_id: SubmissionId
    owner: str
    sample: SampleRef
    request: AnalysisRequest
    plan: Plan


class TaskQueued(TaskFact):
    """The task waits for a machine."""

    WHAT: ClassVar[str] = "queued"
    waiting_for: str


class TaskStarted(TaskFact):
    """A machine is the task's; the guest stage begins."""

    WHAT: ClassVar[str] = "started"
    machine_id: MachineId
    attempt: int


class TaskRequeued(TaskFact):
    """The attempt ended without its evidence; another follows."""

    WHAT: ClassVar[str] = "requeued"
    attempt: int
    reason: str


class TaskEnded(TaskFact):
    """What the four ends of a task have in common."""

    attempts: int = Field(ge=0)
    machine: MachineCondition
    reason: str = ""
    ended_by: EndedBy | None = None


class TaskCompleted(TaskEnded):
    """The report is sealed, and the machine is clean or out of the pool."""

    WHAT: ClassVar[str] = "completed"


class TaskFailed(TaskEnded):
    """No evidence could be had; the reason says why."""

    WHAT: ClassVar[str] = "failed"


class TaskTimedOut(TaskEnded):
    """The task's hard limit passed before it could end by itself."""

    WHAT: ClassVar[str] = "timed-out"


class TaskCancelled(TaskEnded):
    """Somebody ended the task."""

    WHAT: ClassVar[str] = "cancelled"


class TaskUnserviceable(TaskFact):
    """No machine that is known could ever run this task; one that waited has a report of what needed none."""

    WHAT: ClassVar[str] = "unserviceable"
    reason: str


class LeaseMachine(Command):
    """Give the machine to the task. Repeating it with the same operation id changes nothing."""

    RECEIVER: ClassVar[str] = "machines"
    THING: ClassVar[str] = "machine"
    WHAT: ClassVar[str] = "lease"

    operation_id: str
    task_id: TaskId
    machine_id: MachineId
    host: str
    route: Route
    hold_s: int = Field(gt=0, description="the lease's hard limit, seconds from the grant")
    untrusted: bool = Field(default=False, description="the sample was marked untrusted")
    owner: str | None = Field(default=None, description="the task's; who else than administrators may see the lease")

    def subject(self) -> str:
        """The machine."""
        return self.machine_id

    def receiver(self) -> str:
        """The machines service of that host."""
        return f"machines.{self.host}"


class ReleaseMachine(Command):
    """The task is done with the machine."""

    RECEIVER: ClassVar[str] = "machines"
    THING: ClassVar[str] = "machine"
    WHAT: ClassVar[str] = "release"

    task_id: TaskId
    machine_id: MachineId
    host: str
    lease_id: LeaseId
    epoch: int

    def subject(self) -> str:
        """The machine."""
        return self.machine_id

    def receiver(self) -> str:
        """The machines service of that host."""
        return f"machines.{self.host}"


class GuestAssignment(Message):
    """The leased machine that a guest stage runs on."""

    lease: LeaseRef
    endpoint: GuestEndpoint
    platform: Platform
    acceleration: Acceleration = "none"
    hard_deadline_at: datetime


class RunStage(Command):
    """Run one stage of the task's plan. Repeating it changes nothing."""

    RECEIVER: ClassVar[str] = "plugins"
    THING: ClassVar[str] = "stage"
    WHAT: ClassVar[str] = "run"

    task_id: TaskId
    attempt: int = Field(ge=1)
    stage: PlannedStage
    sample: SampleRef
    request: AnalysisRequest
    guest: GuestAssignment | None = None
    budgets: Budgets | None = None
    owner: str | None = None
    submission_id: SubmissionId | None = None

    def subject(self) -> str:
        """The task."""
        return self.task_id


class CancelStage(Command):
    """Stop the stage, seal what came."""

    RECEIVER: ClassVar[str] = "plugins"
    THING: ClassVar[str] = "stage"
    WHAT: ClassVar[str] = "cancel"

    task_id: TaskId
    attempt: int
    stage: str
    reason: str

    def subject(self) -> str:
        """The task."""
        return self.task_id


class NameResults(Command):
    """These results are to be in the report, beside those that the order to seal it names itself."""

    RECEIVER: ClassVar[str] = "results"
    THING: ClassVar[str] = "report"
    WHAT: ClassVar[str] = "name-results"

    task_id: TaskId
    part: int = Field(ge=1)
    result_ids: tuple[ResultId, ...] = Field(min_length=1, max_length=RESULTS_NAMED_MAX)

    def subject(self) -> str:
        """The task."""
        return self.task_id


class LostAttempt(BaseModel):
    """One try of the guest stage that ended without its evidence, and was followed by another."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int = Field(ge=1, description="in the order of tries, with those that never had their machine")
    machine_id: MachineId | None
    began_at: datetime | None = Field(default=None, description="when the machine was asked for; None: not recorded")
    ended_at: datetime
    outcome: AttemptOutcome
    reason: str
    errors: tuple[RunError, ...] = Field(default=(), description="what went wrong in its runs, as far as it was said")
    errors_left_out: int = Field(default=0, ge=0)


class SealReport(Command):
    """Every result named here, or in the `NameResults` of the task, is to be in the report; then it is sealed."""

    RECEIVER: ClassVar[str] = "results"
    THING: ClassVar[str] = "report"
    WHAT: ClassVar[str] = "seal"

    task_id: TaskId
    submission_id: SubmissionId
    owner: str
    sample: SampleRef
    request: AnalysisRequest
    plan: Plan = Field(description="without stages: no report is made from it, and earlier releases demand it")
    submitted_at: datetime
    observed_from: datetime | None = None
    machine_id: MachineId | None = None
    platform: Platform | None = None
    acceleration: str = "none"
    attempts: int
    outcome: Literal["completed", "failed", "timed_out", "cancelled", "unserviceable"]
    reason: str = ""
    ended_by: EndedBy | None = None
    result_ids: tuple[ResultId, ...]
    more_results: int = Field(default=0, ge=0, description="how many results the task's `NameResults` name")
    errors: tuple[RunError, ...]
    phases: tuple[PhaseCost, ...] = ()
    attempt_reasons: tuple[str, ...] = ()
    lost_attempts: tuple[LostAttempt, ...] = Field(default=(), description="those before the last, in order")
    parent: Parentage | None = None

    def subject(self) -> str:
        """The task."""
        return self.task_id
