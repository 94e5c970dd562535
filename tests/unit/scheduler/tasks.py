"""Makes tasks and the facts that drive them."""

from datetime import UTC, datetime, timedelta

from contracts.blobs import BlobRef
from contracts.ids import derived
from contracts.intake import TaskSubmitted
from contracts.machines import GuestEndpoint, LeaseExpired, LeaseRef, MachineLeased
from contracts.planning import Plan, PlannedRun, PlannedStage
from contracts.submission import AnalysisRequest, SampleRef
from services.scheduler.domain.task import Task

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN = PlannedRun(plugin="identity", version="1.0.0")


def submission(**request: object) -> TaskSubmitted:
    """A submission of one small sample."""
    return TaskSubmitted(
        task_id=derived("tsk", "one"),
        submission_id=derived("sub", "one"),
        owner="ana",
        sample=SampleRef(blob=BlobRef(sha256="a" * 64, size_bytes=3), name="a.sh"),
        request=AnalysisRequest.model_validate(request),
    )


def planned(*names: str) -> Plan:
    """A plan with those stages, one run each."""
    return Plan(stages=tuple(PlannedStage(name=name, groups=((RUN,),)) for name in names))


def started(*stages: str) -> Task:
    """A task whose plan has those stages, just begun."""
    task = Task.submit(submission(), NOW)
    task.start(planned(*stages), "a machine of profile linux", NOW)
    return task


def leased(task: Task, epoch: int = 4) -> MachineLeased:
    """The fact that the machine which the task waits for is its own."""
    return MachineLeased(
        machine_id="linux-1",
        epoch=epoch,
        task_id=task.task_id,
        lease=LeaseRef(lease_id=derived("lea", "linux-1", epoch), machine_id="linux-1", epoch=epoch, term=1),
        endpoint=GuestEndpoint(scheme="tcp", host="127.0.0.1", port=7, server_identity="x", ca_pem="pem"),
        platform="linux",
        hard_deadline_at=NOW + timedelta(minutes=5),
    )


def granted(task: Task, epoch: int = 4) -> Task:
    """The task after its machine was matched and leased."""
    task.match("linux-1", "local", NOW)
    task.grant(leased(task, epoch), NOW)
    return task


def expired(task: Task, cause: str = "guest_lost", epoch: int = 4) -> LeaseExpired:
    """The fact that the task's lease ended without its word."""
    return LeaseExpired.model_validate(
        {
            "machine_id": "linux-1",
            "epoch": epoch + 1,
            "task_id": task.task_id,
            "lease_id": derived("lea", "linux-1", epoch),
            "cause": cause,
            "reason": "its virtual machine ended",
        }
    )
