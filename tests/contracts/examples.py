"""One example of every message."""

from datetime import UTC, datetime

from contracts import intake, machines, plugins, results, scheduler
from contracts.blobs import BlobRef
from contracts.envelope import Message
from contracts.machines import GuestEndpoint, LeaseRef, MachineSummary
from contracts.planning import Budgets, PhaseCost, Plan, PlannedRun, PlannedStage
from contracts.plugins import PluginManifest, RunError
from contracts.submission import AnalysisRequest, Parentage, PluginChoice, SampleRef

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TASK = "tsk_" + "1" * 32
CHILD = "tsk_" + "6" * 32
SUBMISSION = "sub_" + "2" * 32
LEASE_ID = "lea_" + "3" * 32
RUN = "run_" + "4" * 32
RESULT = "res_" + "5" * 32
BLOB = BlobRef(sha256="a" * 64, size_bytes=3)
SAMPLE = SampleRef(blob=BLOB, name="invoice.sh")
REQUEST = AnalysisRequest(plugins=(PluginChoice(name="yara"),), arguments=("-x",))
STAGE = PlannedStage(name="guest", groups=((PlannedRun(plugin="syscalls", version="1.0.0", config={}),),))
PLAN = Plan(stages=(STAGE,))
MACHINE = MachineSummary(machine_id="linux-1", host="local", profile="linux", platform="linux", arch="x86_64")
ENDPOINT = GuestEndpoint(
    scheme="tcp", host="127.0.0.1", port=40000, server_identity="lea-3.linux-1.malbox", ca_pem="PEM"
)
LEASE = LeaseRef(lease_id=LEASE_ID, machine_id="linux-1", epoch=4, term=1)
GUEST = scheduler.GuestAssignment(lease=LEASE, endpoint=ENDPOINT, platform="linux", hard_deadline_at=AT)
ERROR = RunError(plugin="yara", stage="static", outcome="crashed", reason="it ended by signal 11")

PARENT = Parentage(task_id=TASK, depth=1, result_id=RESULT, plugin="archives", name="bin/a.sh")
_OF = {"machine_id": "linux-1", "epoch": 4}
_STAGE = {"task_id": TASK, "attempt": 1, "stage": "guest"}
_RUN = {**_STAGE, "run_id": RUN, "plugin": "syscalls", "version": "1.0.0"}
_END = {"task_id": TASK, "attempts": 1, "machine": "clean"}

_FIELDS: dict[type[Message], dict[str, object]] = {
    intake.SampleStored: {"sample": SAMPLE, "owner": "ana"},
    intake.TaskSubmitted: {
        "task_id": TASK,
        "submission_id": SUBMISSION,
        "owner": "ana",
        "sample": SAMPLE,
        "request": REQUEST,
    },
    intake.ChildrenChosen: {
        "task_id": TASK,
        "submission_id": SUBMISSION,
        "children": (
            {"result_id": RESULT, "plugin": "archives", "name": "a.sh", "sha256": BLOB.sha256, "task_id": CHILD},
            {"result_id": RESULT, "plugin": "archives", "name": "b.txt", "sha256": BLOB.sha256, "reason": "text/plain"},
        ),
        "left_out": 1,
    },
    intake.TaskCancellationRequested: {"task_id": TASK, "by": "ana", "reason": "a mistake"},
    scheduler.TaskPlanned: {
        "task_id": TASK,
        "submission_id": SUBMISSION,
        "owner": "ana",
        "sample": SAMPLE,
        "request": REQUEST,
        "plan": PLAN,
    },
    scheduler.TaskQueued: {"task_id": TASK, "waiting_for": "a machine of profile linux"},
    scheduler.TaskStarted: {"task_id": TASK, "machine_id": "linux-1", "attempt": 1},
    scheduler.TaskRequeued: {"task_id": TASK, "attempt": 1, "reason": "the guest was lost"},
    scheduler.TaskCompleted: {**_END, "ended_by": "sample_exit"},
    scheduler.TaskFailed: {**_END, "reason": "no agent"},
    scheduler.TaskTimedOut: {**_END, "ended_by": "timeout"},
    scheduler.TaskCancelled: {**_END, "reason": "cancelled by ana"},
    scheduler.TaskUnserviceable: {"task_id": TASK, "reason": "no machine fits"},
    machines.MachineRegistered: {**_OF, "machine": MACHINE, "state": "registered"},
    machines.MachineProvisioned: {**_OF, "acceleration": "tcg"},
    machines.MachineLeased: {
        **_OF,
        "task_id": TASK,
        "lease": LEASE,
        "endpoint": ENDPOINT,
        "platform": "linux",
        "hard_deadline_at": AT,
    },
    machines.CaptureStored: {
        **_OF,
        "task_id": TASK,
        "lease_id": LEASE_ID,
        "blob": BLOB,
        "packets": 3,
        "is_truncated": False,
    },
    machines.LeaseRefused: {**_OF, "task_id": TASK, "operation_id": "ope_1", "reason": "machine is cleaning"},
    machines.LeaseExpired: {
        **_OF,
        "task_id": TASK,
        "lease_id": LEASE_ID,
        "cause": "guest_lost",
        "reason": "its virtual machine ended",
    },
    machines.MachineReleased: {**_OF, "task_id": TASK, "lease_id": LEASE_ID},
    machines.MachineReverting: {**_OF, "task_id": TASK, "reason": "released"},
    machines.MachineReverted: {**_OF, "task_id": TASK, "machine": MACHINE, "evidence": {"boot_id": "b"}},
    machines.RevertFailed: {**_OF, "reason": "no agent", "attempt": 1},
    machines.MachineQuarantined: {**_OF, "reason": "could not be cleaned"},
    machines.MachineWithdrawn: {**_OF, "by": "ana", "reason": "the host is to be updated"},
    machines.MachineRestored: {**_OF, "by": "ana", "reason": "the host was updated"},
    machines.MachineDrifted: {**_OF, "reason": "its domain is gone"},
    machines.MachineRetired: {**_OF, "reason": "replaced"},
    plugins.PluginRegistered: {
        "manifest": PluginManifest(
            name="yara", version="1.0.0", description="matches rules", kind="host", stages=("static",)
        ),
    },
    plugins.PluginRejected: {"folder": "broken", "reason": "plugin.toml: plugin.name is missing"},
    plugins.PluginRemoved: {"name": "yara"},
    plugins.PluginStageStarted: _STAGE,
    plugins.PluginStageCompleted: {
        **_STAGE,
        "result_ids": (RESULT,),
        "errors": (ERROR,),
        "ended_by": "sample_exit",
    },
    plugins.PluginStageFailed: {**_STAGE, "reason": "wrong archive password", "is_retryable": False},
    plugins.PluginStageSkipped: {**_STAGE, "reason": "an archive of several files is not run"},
    plugins.ChildrenFound: {
        **_STAGE,
        "stage": "static",
        "submission_id": SUBMISSION,
        "children": (
            {
                "result_id": RESULT,
                "plugin": "archives",
                "name": "a.sh",
                "blob": BLOB,
                "package": "shell",
                "platform": "linux",
                "mime": "text/x-shellscript",
            },
        ),
    },
    plugins.PluginStarted: _RUN,
    plugins.PluginFinished: {**_RUN, "outcome": "completed", "duration_ms": 12},
    plugins.PluginResultProduced: {
        **_RUN,
        "result_id": RESULT,
        "name": "trace",
        "kind": "bytes",
        "media_type": "text/plain",
        "blob": BLOB,
    },
    plugins.SampleStarted: {**_STAGE, "lease_id": LEASE_ID, "pid": 7, "argv": ("/bin/sh", "/x")},
    plugins.SampleExited: {**_STAGE, "lease_id": LEASE_ID, "exit_code": 0},
    plugins.ObservationEnded: {**_STAGE, "ended_by": "window"},
    plugins.GuestConnected: {**_STAGE, "lease_id": LEASE_ID, "agent_version": "1.0.0"},
    plugins.GuestLost: {**_STAGE, "lease_id": LEASE_ID, "reason": "no heartbeat for 10 s"},
    plugins.LeaseBeat: {"task_id": TASK, "lease": LEASE, "beat": 3},
    results.ArtifactStored: {"task_id": TASK, "result_id": RESULT, "blob": BLOB, "name": "trace"},
    results.ReportReady: {"task_id": TASK, "verdict": "suspicious", "score": 40, "report": BLOB},
    results.VerdictChanged: {
        "task_id": TASK,
        "verdict": "malicious",
        "score": 70,
        "report": BLOB,
        "revision": 1,
        "reason": "contains a.sh, which is malicious",
    },
    scheduler.LeaseMachine: {
        "operation_id": "ope_1",
        "task_id": TASK,
        "machine_id": "linux-1",
        "host": "local",
        "route": "none",
        "hold_s": 330,
    },
    scheduler.ReleaseMachine: {
        "task_id": TASK,
        "machine_id": "linux-1",
        "host": "local",
        "lease_id": LEASE_ID,
        "epoch": 4,
    },
    scheduler.RunStage: {
        "task_id": TASK,
        "attempt": 1,
        "stage": STAGE,
        "sample": SAMPLE,
        "request": REQUEST,
        "guest": GUEST,
    },
    scheduler.CancelStage: {"task_id": TASK, "attempt": 1, "stage": "guest", "reason": "cancelled by ana"},
    scheduler.NameResults: {"task_id": TASK, "part": 1, "result_ids": (RESULT,)},
    scheduler.SealReport: {
        "task_id": TASK,
        "submission_id": SUBMISSION,
        "owner": "ana",
        "sample": SAMPLE,
        "request": REQUEST,
        "plan": PLAN,
        "submitted_at": AT,
        "machine_id": "linux-1",
        "platform": "linux",
        "acceleration": "tcg",
        "attempts": 1,
        "outcome": "completed",
        "ended_by": "sample_exit",
        "result_ids": (RESULT,),
        "errors": (),
    },
}

EXAMPLES: tuple[Message, ...] = tuple(kind.model_validate(fields) for kind, fields in _FIELDS.items())

GROWN: dict[str, Message] = {
    "malbox.observation.ended.v1.lease": plugins.ObservationEnded.model_validate(
        {**_STAGE, "ended_by": "window", "lease": LEASE}
    ),
    "malbox.machine.leased.v1.host": machines.MachineLeased.model_validate(
        {**_FIELDS[machines.MachineLeased], "host": "local"}
    ),
    "malbox.task.submitted.v1.untrusted": intake.TaskSubmitted.model_validate(
        {**_FIELDS[intake.TaskSubmitted], "request": {**REQUEST.model_dump(), "untrusted": True}}
    ),
    "malbox.machine.lease.v1.untrusted": scheduler.LeaseMachine.model_validate(
        {**_FIELDS[scheduler.LeaseMachine], "untrusted": True}
    ),
    "malbox.machine.lease.v1.owner": scheduler.LeaseMachine.model_validate(
        {**_FIELDS[scheduler.LeaseMachine], "owner": "ana"}
    ),
    "malbox.machine.reverted.v1.accepts-untrusted": machines.MachineReverted.model_validate(
        {**_FIELDS[machines.MachineReverted], "machine": {**MACHINE.model_dump(), "accepts_untrusted": True}}
    ),
    "malbox.stage.run.v1.budgets": scheduler.RunStage.model_validate(
        {**_FIELDS[scheduler.RunStage], "budgets": Budgets(collection_s=120)}
    ),
    "malbox.task.submitted.v1.parent": intake.TaskSubmitted.model_validate(
        {
            **_FIELDS[intake.TaskSubmitted],
            "parent": PARENT,
            "request": {**REQUEST.model_dump(), "children": {"depth": 2, "per_task": 4, "kinds": ("script",)}},
        }
    ),
    "malbox.stage.run.v1.submission": scheduler.RunStage.model_validate(
        {**_FIELDS[scheduler.RunStage], "submission_id": SUBMISSION}
    ),
    "malbox.report.seal.v1.parent": scheduler.SealReport.model_validate(
        {**_FIELDS[scheduler.SealReport], "parent": PARENT}
    ),
    "malbox.report.ready.v1.revision": results.ReportReady.model_validate(
        {**_FIELDS[results.ReportReady], "revision": 2}
    ),
    "malbox.stage.run.v1.owner": scheduler.RunStage.model_validate({**_FIELDS[scheduler.RunStage], "owner": "ann"}),
    "malbox.report.ready.v1.missing-more": results.ReportReady.model_validate(
        {**_FIELDS[results.ReportReady], "missing_results": (RESULT,), "missing_more": 3}
    ),
    "malbox.report.seal.v1.more-results": scheduler.SealReport.model_validate(
        {**_FIELDS[scheduler.SealReport], "more_results": 1}
    ),
    "malbox.plugin.result-produced.v1.title": plugins.PluginResultProduced.model_validate(
        {**_FIELDS[plugins.PluginResultProduced], "title": "System call trace"}
    ),
    "malbox.report.seal.v1.lost-attempts": scheduler.SealReport.model_validate(
        {
            **_FIELDS[scheduler.SealReport],
            "lost_attempts": (
                {
                    "number": 1,
                    "machine_id": "linux-1",
                    "began_at": AT,
                    "ended_at": AT,
                    "outcome": "guest_lost",
                    "reason": "the guest was lost",
                    "errors": ({"plugin": "syscalls", "stage": "guest", "outcome": "failed", "reason": "no trace"},),
                    "errors_left_out": 1,
                },
            ),
        }
    ),
    "malbox.report.seal.v1.phases": scheduler.SealReport.model_validate(
        {
            **_FIELDS[scheduler.SealReport],
            "outcome": "unserviceable",
            "phases": (PhaseCost(phase="queue", budget_s=86400, spent_s=1.5),),
            "attempt_reasons": ("the guest was lost",),
        }
    ),
}
"""Messages with fields that were added after the first golden file, by the name of a golden file of their own."""
