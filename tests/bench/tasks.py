"""Submits tasks through the origin and waits for their ends, as any client would."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from deploy.local.postgres import DATABASE
from deploy.local.secrets import DATABASE_SUPERUSER
from tests.bench.bed import Bed
from tests.bench.wire import Origin, Refused, Wire, form, unique_file

TASK_TIMEOUT_S = 180.0
POLL_S = 0.1
SAMPLE_BYTES = 2048
OVER = ("completed", "failed", "timed_out", "cancelled", "unserviceable")
WHOLE = (("plugin", "identity"), ("plugin", "syscalls"), ("timeout", "30"))
GUEST_ONLY = (("plugin", "syscalls"), ("timeout", "30"))


@dataclass(frozen=True)
class Finished:
    """One task that completed. Instants are Unix time, seconds; `ended_at` is when the client knew."""

    task_id: str
    posted_at: float
    accepted_at: float
    ended_at: float
    task: dict[str, Any]


async def run_one(origin: Origin, fields: Sequence[tuple[str, str]], sample: bytes | None = None) -> Finished:
    """The sample, or else a small unique file, is submitted and completes. Raises Refused when it ends otherwise."""
    body = form(unique_file(SAMPLE_BYTES) if sample is None else sample, "sample.sh", fields)
    async with origin.connected() as wire, origin.connected() as ear, asyncio.timeout(TASK_TIMEOUT_S):
        posted_at = time.time()
        submission = await wire.submit(body)
        accepted_at = time.time()
        task_id = submission["tasks"][0]["task_id"]
        task = await _until_over(wire, ear, task_id)
        ended_at = time.time()
    if task["state"] != "completed":
        raise Refused(f"task {task_id} ended as {task['state']}: {task['why']}; errors: {task['errors']}")
    return Finished(task_id, posted_at, accepted_at, ended_at, task)


async def warm_up(origin: Origin, fields: Sequence[tuple[str, str]], *, timeout_s: float) -> None:
    """One task went through, so that every part has done everything once. Raises Refused."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            await run_one(origin, fields)
        except Refused:
            # The catalogue may still be on its way to intake or to the scheduler.
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(POLL_S)
        else:
            return


async def machines_ready(origin: Origin, count: int, *, timeout_s: float) -> None:
    """That many machines are to be had. Raises Refused, saying what they are instead."""
    give_up_at = time.monotonic() + timeout_s
    async with origin.connected() as wire:
        while True:
            machines = (await wire.get("/machines"))["items"]
            if sum(machine["state"] == "ready" for machine in machines) >= count:
                return
            if time.monotonic() > give_up_at:
                said = {machine["machine_id"]: (machine["state"], machine["why"]) for machine in machines}
                raise Refused(f"not {count} machines ready after {timeout_s:.0f} s: {said}")
            await asyncio.sleep(POLL_S)


async def facts(origin: Origin, start: str) -> list[dict[str, Any]]:
    """The audit record from an instant (ISO 8601) on."""
    async with origin.connected() as wire:
        lines = (await wire.exchange("GET", f"/events/replay?from={start}")).splitlines()
    return [json.loads(line)["event"] for line in lines]


async def end_of_all(bed: Bed, count: int, *, timeout_s: float) -> tuple[float, dict[str, int]]:
    """That many tasks are over: when the last one was (Unix time), and how many ended in each way.

    Asked of the scheduler's table, ten times a second: listening to every change would cost what is measured.
    """
    connection = await asyncpg.connect(bed.here.postgres().url(DATABASE_SUPERUSER, DATABASE), timeout=10)
    give_up_at = time.monotonic() + timeout_s
    try:
        while True:
            rows = await connection.fetch(
                "SELECT state, count(*) AS n, extract(epoch FROM max(since))::float8 AS last "
                "FROM scheduler.task_rows GROUP BY state"
            )
            ends = {row["state"]: row["n"] for row in rows if row["state"] in OVER}
            if sum(ends.values()) >= count or time.monotonic() > give_up_at:
                lasts = [row["last"] for row in rows if row["state"] in OVER]
                return max(lasts, default=time.time()), {row["state"]: row["n"] for row in rows}
            await asyncio.sleep(POLL_S)
    finally:
        await connection.close(timeout=10)


async def _until_over(wire: Wire, ear: Wire, task_id: str) -> dict[str, Any]:
    """The task as the stream of its changes shows it last. The scheduler hears of a task a moment after the client."""
    while True:  # bounded by the caller's timeout
        try:
            await wire.get(f"/tasks/{task_id}")
            break
        except Refused:
            await asyncio.sleep(0.005)
    task: dict[str, Any] = {}
    async for name, data in ear.events(f"/tasks/{task_id}/events"):
        if name == "task":
            task = data
    return task
