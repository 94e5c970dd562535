"""Tasks over HTTP: list, show, cancel, and live events."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import uuid_of
from contracts.limits import REASON_MAX_CHARS
from contracts.scheduler import TaskState
from services.chassis.http import Caller, Identity, Problem
from services.chassis.run import Runtime
from services.chassis.store import Conflict, Store
from services.scheduler.adapters.audit import AuditStream
from services.scheduler.app import record
from services.scheduler.domain.task import NotPossible, Task
from services.scheduler.live import Live
from services.scheduler.sse import all_changes, task_changes
from services.scheduler.view import present

PAGE_MAX = 200
CANCEL_TRIES = 5
EVENT_STREAM = "text/event-stream"


class CancelBody(BaseModel):
    """Why the task is to end."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=REASON_MAX_CHARS)


async def owned_task(store: Store, task_id: str, caller: Identity) -> Task:
    """The task, if the caller may see it. Raises Problem 404 else: existence is nobody else's business."""
    task = await store.load(Task, uuid_of(task_id)) if task_id.startswith("tsk_") else None
    if task is None or not caller.may_see(task.owner):
        raise Problem(404, "unknown_task", f"There is no task {task_id!r}.")
    return task


def router(runtime: Runtime, live: Live, audit: AuditStream) -> APIRouter:  # noqa: C901 - a list of routes
    """GET /tasks, GET /tasks/{id}, POST /tasks/{id}/cancel, GET /tasks/{id}/events, GET /events, GET /events/replay."""
    routes = APIRouter(tags=["tasks"])
    store = runtime.store

    @routes.get("/tasks")
    async def list_tasks(
        caller: Caller,
        state: TaskState | None = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        after: Annotated[str | None, Query(max_length=64)] = None,
    ) -> dict[str, Any]:
        """Tasks, newest first, a page at a time; `next` is the `after` of the following page."""
        rows = await store.fetch(
            "SELECT task_id, submission_id, owner, sample_name, sha256, profile, state, since, submitted_at, verdict, "
            "score FROM task_rows WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR owner = $2) "
            "AND ($3::text IS NULL OR (submitted_at, task_id) < "
            "(SELECT submitted_at, task_id FROM task_rows WHERE task_id = $3)) "
            "ORDER BY submitted_at DESC, task_id DESC LIMIT $4",
            state,
            None if caller.is_admin else caller.subject,
            after,
            limit + 1,
        )
        items = [dict(row) for row in rows[:limit]]
        return {"items": items, "next": items[-1]["task_id"] if len(rows) > limit else None}

    @routes.get("/tasks/{task_id}")
    async def show_task(task_id: str, caller: Caller) -> dict[str, Any]:
        """One task."""
        return await present(store, await owned_task(store, task_id, caller), runtime.clock.now())

    @routes.post("/tasks/{task_id}/cancel", status_code=202)
    async def cancel_task(task_id: str, caller: Caller, body: CancelBody | None = None) -> dict[str, Any]:
        """The task will end, whatever state it is in. 409 when it is over."""
        for _ in range(CANCEL_TRIES):
            task = await owned_task(store, task_id, caller)
            unit = runtime.unit()
            try:
                task.cancel(caller.subject, body.reason if body else "", unit.at)
            except NotPossible as refusal:
                raise Problem(409, "task_is_over", str(refusal)) from refusal
            record(unit, task)
            try:
                await store.commit(unit)
            except Conflict:
                continue
            return await present(store, task, unit.at)
        raise Problem(503, "busy", "The task changes too fast; try again.", retry_after_s=1)

    @routes.get("/tasks/{task_id}/events")
    async def watch_task(task_id: str, caller: Caller, request: Request) -> StreamingResponse:
        """Server-sent events of one task: `task` with its JSON at each change, `fact` for what its stages say."""
        await owned_task(store, task_id, caller)
        return _stream(task_changes(runtime, live, task_id, request))

    @routes.get("/events")
    async def watch_all(caller: Caller, request: Request) -> StreamingResponse:
        """Server-sent events of every task that the caller may see: `task` with its JSON at each change."""
        return _stream(all_changes(runtime, live, caller, request))

    @routes.get("/events/replay")
    async def replay(
        caller: Caller,
        start: Annotated[str, Query(alias="from", max_length=40)] = "first",
        limit: Annotated[int, Query(ge=1, le=1_000_000)] = 100_000,
    ) -> StreamingResponse:
        """The audit record as JSON lines `{offset, event}`, from an offset, an instant (ISO 8601) or `first`."""
        if not caller.is_admin:
            raise Problem(403, "forbidden", "Only an administrator may replay the audit record.")
        records = audit.read(_start(start), limit)
        return StreamingResponse(
            (orjson.dumps(record) + b"\n" async for record in records), media_type="application/x-ndjson"
        )

    return routes


def _start(text: str) -> str:
    problem = Problem(
        422,
        "invalid_start",
        f"{text!r} is neither `first`, nor an offset, nor an instant such as 2026-01-31T12:00:00Z.",
        pointer="/query/from",
    )
    try:
        return AuditStream.parse_start(text)
    except ValueError as error:
        raise problem from error


def _stream(events: Any) -> StreamingResponse:
    return StreamingResponse(
        events, media_type=EVENT_STREAM, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
