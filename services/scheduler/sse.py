"""Server-sent events (WHATWG HTML, section 9.2): the state first, then every change; comments keep it alive."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import Request

from contracts.ids import uuid_of
from services.chassis.http import Identity
from services.chassis.run import Runtime
from services.chassis.store import Store
from services.scheduler.domain.task import Task
from services.scheduler.live import Live
from services.scheduler.view import present

KEEP_ALIVE_S = 10.0
FACTS_MAX = 500


def event(name: str, data: Any) -> bytes:
    """One event on the wire. JSON has no raw line break, so one `data:` line is enough."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


async def task_changes(runtime: Runtime, live: Live, task_id: str, request: Request) -> AsyncIterator[bytes]:
    """The task's JSON at each change and its stages' facts, until it is over."""
    store, version, position = runtime.store, 0, 0
    with live.listening() as hints:
        while not await request.is_disconnected():
            task = await store.load(Task, uuid_of(task_id))  # before its facts: of a task that is over all are read
            while facts := await _facts(store, task_id, position):
                for _position, fact in facts:
                    yield event("fact", fact)
                position = facts[-1][0]
            if task is not None and task.version > version:
                version = task.version
                yield event("task", await present(runtime.store, task, runtime.clock.now()))
                if task.is_over:
                    return
            if not await _hinted(hints, task_id):
                yield b": alive\n\n"


async def all_changes(runtime: Runtime, live: Live, caller: Identity, request: Request) -> AsyncIterator[bytes]:
    """The JSON of each task that changes, from now on."""
    yield b": listening\n\n"
    with live.listening() as hints:
        while not await request.is_disconnected():
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):  # wait_for may lose a hint that comes as it ends
                    task_id = await hints.get()
            except TimeoutError:
                yield b": alive\n\n"
                continue
            task = await runtime.store.load(Task, uuid_of(task_id))
            if task is not None and caller.may_see(task.owner):
                yield event("task", await present(runtime.store, task, runtime.clock.now()))


async def _hinted(hints: asyncio.Queue[str], task_id: str) -> bool:
    """Waits for a hint at the task; False when none came in time."""
    try:
        async with asyncio.timeout(KEEP_ALIVE_S):
            while await hints.get() != task_id:
                pass
    except TimeoutError:
        return False
    return True


async def _facts(store: Store, task_id: str, after: int) -> list[tuple[int, dict[str, Any]]]:
    """Each with its position: those that follow, up to a number."""
    rows = await store.fetch(
        "SELECT position, at, type, details::text AS details FROM task_facts "
        "WHERE task_id = $1 AND position > $2 ORDER BY position LIMIT $3",
        task_id,
        after,
        FACTS_MAX,
    )
    return [(row["position"], {"type": row["type"], "at": row["at"], **json.loads(row["details"])}) for row in rows]
