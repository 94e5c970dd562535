"""A client that never gives up a submission: it repeats it, under the same key, until it was accepted."""

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from deploy.local.ports import LOOPBACK
from deploy.local.routes import API
from tests.bench.wire import Origin, Refused

TIMEOUT_S = 30.0
PATIENCE_S = 120.0
PAUSE_S = 0.1
SERVER_FAULT_FROM = 500
ACCEPTED = 202
FIELDS = {"plugin": ["identity", "syscalls"], "timeout": "30"}


@dataclass
class Accepted:
    """What was accepted: the task of each key, and how often its submission had to be sent."""

    key: str
    content: bytes
    task_id: str = ""
    tries: int = 0
    faults: list[str] = field(default_factory=list)


class Client:
    """Speaks to the gateway."""

    def __init__(self, origin: Origin) -> None:
        self._http = httpx.AsyncClient(
            base_url=f"http://{LOOPBACK}:{origin.port}{API}",
            headers={"Authorization": f"Bearer {origin.token}"},
            timeout=TIMEOUT_S,
        )

    async def close(self) -> None:
        """Connections are closed."""
        await self._http.aclose()

    async def submit(self, key: str) -> Accepted:
        """A new file was accepted, 202, under that key. Raises Refused when it is not for PATIENCE_S."""
        accepted = Accepted(key, f"#!/bin/sh\n# {key} {os.urandom(8).hex()}\nexit 0\n".encode())
        await self.repeat(accepted)
        return accepted

    async def repeat(self, accepted: Accepted) -> None:
        """The submission stands: sent again it is the same task. Raises Refused when it is another."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            accepted.tries += 1
            fault = await self._try(accepted)
            if fault is None:
                return
            accepted.faults.append(fault)
            if time.monotonic() > give_up_at:
                raise Refused(f"{accepted.key} was not accepted in {PATIENCE_S:.0f} s: {accepted.faults[-1]}")
            await asyncio.sleep(PAUSE_S)

    async def get(self, path: str) -> Any:
        """The JSON at the path, asked for again while the origin is at fault. Raises Refused."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = await self._http.get(path)
            except httpx.TransportError as error:
                said = repr(error)
            else:
                if answer.status_code < SERVER_FAULT_FROM:
                    if answer.is_success:
                        return answer.json()
                    raise Refused(f"GET {path}: {answer.status_code} {answer.text[:400]}")
                said = f"{answer.status_code} {answer.text[:200]}"
            if time.monotonic() > give_up_at:
                raise Refused(f"GET {path}: {said}")
            await asyncio.sleep(PAUSE_S)

    async def post(self, path: str, body: dict[str, str]) -> int:
        """The status of an order."""
        return (await self._http.post(path, json=body)).status_code

    async def _try(self, accepted: Accepted) -> str | None:
        """None when it was accepted, else what was the matter. Raises Refused when sending it again cannot help."""
        try:
            answer = await self._http.post(
                "/submissions",
                data=FIELDS,
                files={"file": ("sample.sh", accepted.content, "application/octet-stream")},
                headers={"Idempotency-Key": accepted.key},
            )
        except httpx.TransportError as error:
            return repr(error)
        if answer.status_code >= SERVER_FAULT_FROM:
            return f"{answer.status_code} {answer.text[:200]}"
        if answer.status_code != ACCEPTED:
            raise Refused(f"{accepted.key}: {answer.status_code} {answer.text[:400]}")
        task_id = str(answer.json()["tasks"][0]["task_id"])
        if accepted.task_id not in ("", task_id):
            raise Refused(f"{accepted.key} is two tasks: {accepted.task_id} and {task_id}")
        accepted.task_id = task_id
        return None
