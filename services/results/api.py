"""What the results service answers over HTTP: reports, results, and the bytes of artifacts. Each to its owner only."""

from dataclasses import asdict
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from contracts.ids import ResultId, TaskId
from services.chassis.blobs import BlobStore
from services.chassis.http import Caller, Identity, Problem
from services.chassis.store import Store
from services.results import rows
from services.results.domain.report import Report
from services.results.domain.result import Result
from services.results.downloads import (
    RangeNotSatisfiable,
    Span,
    etag,
    has_same_bytes,
    headers,
    span_of,
)

PAGE_MAX = 500
PAGE_DEFAULT = 100
log = structlog.get_logger()
OCTETS = "application/octet-stream"
After = Annotated[int, Query(ge=0, le=2**62, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


def router(store: Store, blobs: BlobStore) -> APIRouter:
    """The routes of the service."""
    routes = APIRouter(tags=["results"])
    desk = Desk(store, blobs)

    @routes.get("/tasks/{task_id}/report", response_model=Report)
    async def report(task_id: TaskId, caller: Caller, request: Request) -> Response:
        """The sealed report, as JSON. 404 `report_not_ready`, with the task's state, until there is one."""
        return await desk.report(task_id, caller, request)

    @routes.get("/tasks/{task_id}/results")
    async def results(task_id: TaskId, caller: Caller, after: After = 0, limit: Limit = PAGE_DEFAULT) -> dict[str, Any]:
        """Every result of the task that is recorded, in the order of its arrival."""
        return await desk.page(task_id, caller, kinds=("json", "bytes", "file"), after=after, limit=limit)

    @routes.get("/tasks/{task_id}/artifacts")
    async def artifacts(
        task_id: TaskId, caller: Caller, after: After = 0, limit: Limit = PAGE_DEFAULT
    ) -> dict[str, Any]:
        """The results that are bytes or files: evidence and what the sample left behind."""
        return await desk.page(task_id, caller, kinds=("bytes", "file"), after=after, limit=limit)

    @routes.head("/artifacts/{result_id}", include_in_schema=False)
    @routes.get("/artifacts/{result_id}", response_class=StreamingResponse)
    async def artifact(result_id: ResultId, caller: Caller, request: Request) -> Response:
        """The bytes of one result, to be saved and never shown. Ranges and `If-None-Match` are honoured."""
        return await desk.artifact(result_id, caller, request)

    return routes


class Desk:
    """Checks who asks, and hands out."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    async def report(self, task_id: str, caller: Identity, request: Request) -> Response:
        """The report's bytes. Raises Problem."""
        task = await self._task(task_id, caller)
        ready = await rows.report_of(self._store, task_id)
        if ready is None:
            raise Problem(
                404,
                "report_not_ready",
                f"The task is {task.state} since {task.changed_at.isoformat()}; its report is sealed when all of its "
                f"results are in. Follow it at /api/v1/tasks/{task_id}/events.",
                state=task.state,
                since=task.changed_at.isoformat(),
            )
        sent = {
            "ETag": etag(ready.report.sha256),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-cache",
        }
        if has_same_bytes(request.headers.get("if-none-match"), ready.report.sha256):
            return Response(status_code=304, headers=sent)
        await self._check_bytes(ready.report.sha256, ready.report.size_bytes)
        sent["Content-Length"] = str(ready.report.size_bytes)
        return StreamingResponse(self._blobs.stream(ready.report.sha256), headers=sent, media_type="application/json")

    async def page(
        self, task_id: str, caller: Identity, *, kinds: tuple[str, ...], after: int, limit: int
    ) -> dict[str, Any]:
        """One page of results. Raises Problem."""
        await self._task(task_id, caller)
        found, following = await rows.results_page(self._store, task_id, kinds=kinds, after=after, limit=limit)
        return {"items": [_described(result) for result in found], "next": following}

    async def artifact(self, result_id: str, caller: Identity, request: Request) -> Response:
        """The artifact's bytes, or the part asked for. Raises Problem."""
        result = await self._result(result_id, caller)
        sent = headers(result)
        if has_same_bytes(request.headers.get("if-none-match"), result.sha256):
            return Response(status_code=304, headers=sent)
        await self._check_bytes(result.sha256, result.size_bytes)
        span = _span(request, result)
        start, end = (span.start, span.end) if span else (0, result.size_bytes)
        sent["Content-Length"] = str(end - start)
        if span:
            sent["Content-Range"] = f"bytes {start}-{end - 1}/{result.size_bytes}"
        status = 206 if span else 200
        if request.method == "HEAD":
            return Response(status_code=status, headers=sent, media_type=OCTETS)
        content = self._blobs.stream(result.sha256, start=start, end=end)
        return StreamingResponse(content, status, sent, media_type=OCTETS)

    async def _task(self, task_id: str, caller: Identity) -> rows.KnownTask:
        task = await rows.task_of(self._store, task_id)
        if task is None or not _may_see(caller, task):
            raise _not_found("task", task_id)
        return task

    async def _result(self, result_id: str, caller: Identity) -> Result:
        result = await rows.result_of(self._store, result_id)
        task = await rows.task_of(self._store, result.task_id) if result else None
        if result is None or not _may_see(caller, task):
            raise _not_found("artifact", result_id)
        return result

    async def _check_bytes(self, sha256: str, size_bytes: int) -> None:
        if await self._blobs.size(sha256) != size_bytes:
            log.error("bytes_were_lost", sha256=sha256, size_bytes=size_bytes)
            raise Problem(410, "bytes_lost", "The record is here, its bytes are not in the object store any more.")


def _may_see(caller: Identity, task: rows.KnownTask | None) -> bool:
    """Whether the task is the caller's. One whose owner is not known yet is an administrator's only."""
    if task is None or task.owner is None:
        return caller.is_admin
    return caller.may_see(task.owner)


def _not_found(thing: str, identifier: str) -> Problem:
    """The same answer for what is not there and for what is somebody else's."""
    return Problem(404, "not_found", f"You have no {thing} {identifier}.")


def _span(request: Request, result: Result) -> Span | None:
    """The range to send; None for all. Raises Problem 416."""
    if_range = request.headers.get("if-range")
    if if_range is not None and if_range != etag(result.sha256):
        return None
    try:
        return span_of(request.headers.get("range"), result.size_bytes)
    except RangeNotSatisfiable:
        detail = f"The artifact has {result.size_bytes} bytes."
        raise Problem(416, "range_not_satisfiable", detail, size_bytes=result.size_bytes) from None


def _described(result: Result) -> dict[str, Any]:
    described = asdict(result)
    return {**described, "recorded_at": result.recorded_at.isoformat(), "href": result.href}
