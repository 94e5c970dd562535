"""A task as the API shows it."""

from datetime import datetime
from typing import Any

from contracts.limits import ATTEMPTS_MAX
from services.chassis.store import Store
from services.scheduler import waiting
from services.scheduler.domain.task import Task


async def present(store: Store, task: Task, now: datetime) -> dict[str, Any]:
    """The task's JSON as it is now; one that waits says what for, as the pool is now."""
    content = shown(task, now)
    if task.wants_machine and (obstacle := await waiting.obstacle(store, task)):
        content["why"] = f"{content['why']} ({obstacle})"
    return content


def shown(task: Task, now: datetime) -> dict[str, Any]:
    """The task's JSON: state with since-when and why, the machine's condition apart from the report's, and history."""
    return {
        "task_id": task.task_id,
        "submission_id": task.submission_id,
        "owner": task.owner,
        "sample": {
            "sha256": task.sample.blob.sha256,
            "size_bytes": task.sample.blob.size_bytes,
            "name": task.sample.name,
        },
        "parent": task.parent.model_dump(mode="json") if task.parent else None,
        "state": task.state,
        "state_since": task.state_since,
        "why": "" if task.is_over and not task.outcome_reason else task.outcome_reason or task.why,
        "attempts": task.attempts,
        "attempts_max": ATTEMPTS_MAX,
        "lost_attempts": [
            {
                "attempt": lost.number,
                "machine_id": lost.machine_id,
                "began_at": lost.began_at,
                "at": lost.ended_at,
                "outcome": lost.outcome,
                "reason": lost.reason,
                "errors": [error.model_dump(mode="json") for error in lost.errors],
            }
            for lost in task.lost_attempts
        ],
        "phases": [cost.model_dump(mode="json") for cost in task.phases(None if task.is_over else now)],
        "machine_id": task.ran_on.lease.machine_id if task.ran_on else task.machine_id,
        "machine": task.machine,
        "report_ready_at": task.report_ready_at,
        "verdict": task.verdict,
        "score": task.score,
        "ended_by": task.ended_by,
        "outcome_reason": task.outcome_reason,
        "stages": [
            {"name": name, "state": state, "since": task.stage_since.get(name)} for name, state in task.stages.items()
        ],
        "request": task.request.model_dump(mode="json"),
        "plan": task.plan.model_dump(mode="json"),
        "errors": [error.model_dump(mode="json") for error in task.errors],
        "history": [
            *({"state": state, "at": at, "why": why} for state, at, why in task.history),
            {"state": task.state, "at": task.state_since, "why": task.why},
        ],
    }
