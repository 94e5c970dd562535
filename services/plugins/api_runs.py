"""What each run of a task's plugins came to, and what it logged, over HTTP. A log is hostile: a plugin wrote it."""

from typing import Annotated, Any

from fastapi import APIRouter, Path

from services.chassis.http import Problem
from services.chassis.operators import Administrator
from services.chassis.store import Store
from services.plugins import rows

ID_MAX_CHARS = 64
TaskPart = Annotated[str, Path(max_length=ID_MAX_CHARS, pattern=r"^[^\x00]*$")]


def runs_router(store: Store) -> APIRouter:
    """GET /plugins/runs/{task_id}, GET /plugins/runs/{task_id}/{plugin}: for administrators."""
    routes = APIRouter(prefix="/plugins/runs", tags=["plugins"])

    @routes.get("/{task_id}")
    async def list_runs(task_id: TaskPart, _caller: Administrator) -> dict[str, Any]:
        """Every run of the task's plugins that ended, with its outcome and the length of its log."""
        return {"items": await rows.load_runs(store, task_id)}

    @routes.get("/{task_id}/{plugin}")
    async def show_runs(task_id: TaskPart, plugin: TaskPart, _caller: Administrator) -> dict[str, Any]:
        """The runs of one plugin for the task, each with what it logged."""
        found = await rows.load_runs_of(store, task_id, plugin)
        if not found:
            known = sorted({one["plugin"] for one in await rows.load_runs(store, task_id)})
            raise Problem(404, "unknown_run", f"No run of {plugin!r} for that task has ended.", allowed=known)
        return {"items": found}

    return routes
