"""A results service under test: both ends of its bus, its object store and its HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import aio_pika
import httpx
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts.blobs import BlobRef
from contracts.catalogue import unwrap
from contracts.envelope import Command, Envelope, Message
from contracts.ids import derived
from contracts.intake import TaskSubmitted
from contracts.machines import CaptureStored, MachineQuarantined
from contracts.plugins import PluginResultProduced
from contracts.scheduler import LostAttempt, SealReport
from services.chassis.blobs import BlobStore
from services.results.settings import ResultsSettings
from tests.ports import free_port

SECRET = "s" * 32
HEARING_MAX_S = 60.0
ANSWER_MAX_S = 120.0
YARA = json.dumps({"matches": [{"rule": "eicar", "severity": 100, "attack": "T1204.002"}]}).encode()
M = TypeVar("M", bound=Message)


@dataclass
class Bench:
    """A running results service, and both ends of the bus."""

    blobs: BlobStore
    channel: AbstractChannel
    http: httpx.AsyncClient
    task_id: str = field(default_factory=lambda: derived("tsk", uuid4().hex))
    heard: list[Message] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def tell(self, message: Message, message_id: str | None = None) -> None:
        """The message is on the bus."""
        envelope = Envelope.wrap(message, message_id=message_id or uuid4().hex, source="test", at=datetime.now(UTC))
        name = "malbox.commands" if isinstance(message, Command) else "malbox.facts"
        key = message.receiver() if isinstance(message, Command) else message.routing_key()
        exchange = await self.channel.get_exchange(name, ensure=False)
        await exchange.publish(aio_pika.Message(envelope.to_json()), key, timeout=10)

    async def hear(self, kind: type[M], count: int = 1) -> list[M]:
        """That many messages of the kind were said."""
        async with asyncio.timeout(HEARING_MAX_S), self.news:
            await self.news.wait_for(lambda: len(self.said(kind)) >= count)
        return self.said(kind)

    def said(self, kind: type[M]) -> list[M]:
        """The messages of the kind that were said until now."""
        return [message for message in self.heard if isinstance(message, kind)]

    async def submit(self, owner: str = "ann") -> None:
        """The task is known."""
        await self.tell(
            TaskSubmitted.model_validate(
                {
                    "task_id": self.task_id,
                    "submission_id": derived("sub", self.task_id),
                    "owner": owner,
                    "sample": sample(),
                    "request": {},
                }
            )
        )
        # No fact is said of it, and what is told next may be handled first.
        await self._answered(f"/tasks/{self.task_id}/results?limit=1", owner)

    async def produce(self, plugin: str, content: bytes, **changes: Any) -> PluginResultProduced:
        """The bytes are in the store, and the bus knows."""
        fact = self.result(plugin, await self.blobs.put_bytes(content), **changes)
        await self.tell(fact)
        return fact

    def result(self, plugin: str, blob: BlobRef, **changes: Any) -> PluginResultProduced:
        """A result of the task."""
        name = changes.get("name", plugin)
        fields: dict[str, Any] = {
            "task_id": self.task_id,
            "attempt": 1,
            "stage": "static",
            "result_id": derived("res", self.task_id, plugin, name),
            "run_id": derived("run", self.task_id, plugin),
            "plugin": plugin,
            "version": "1.0.0",
            "name": name,
            "kind": "json",
            "media_type": "application/json",
            "blob": blob,
        }
        return PluginResultProduced.model_validate({**fields, **changes})

    async def until_known(self, *results: PluginResultProduced) -> None:
        """The service lists these results. Facts come by another queue than orders."""
        async with asyncio.timeout(HEARING_MAX_S):
            while True:
                page = (await self.get(f"/tasks/{self.task_id}/results")).json()
                if {one.result_id for one in results} <= {item["result_id"] for item in page["items"]}:
                    return
                await asyncio.sleep(0.02)

    async def seal(
        self,
        *results: PluginResultProduced,
        message_id: str | None = None,
        request: dict[str, Any] | None = None,
        parent: str | None = None,
        more_results: int = 0,
        lost_attempts: Sequence[LostAttempt] = (),
    ) -> None:
        """The report of these results is ordered; of a sample that was found in that of `parent`, if one is named.

        `more_results`: how many others are named beside the order.
        """
        found = {"depth": 1, "result_id": derived("res", "found"), "plugin": "archives", "name": "a.sh"}
        await self.tell(
            SealReport.model_validate(
                {
                    "task_id": self.task_id,
                    "submission_id": derived("sub", self.task_id),
                    "owner": "ann",
                    "sample": sample(),
                    "request": request or {},
                    "plan": {"stages": []},
                    "submitted_at": datetime.now(UTC),
                    "machine_id": "linux-1",
                    "platform": "linux",
                    "acceleration": "tcg",
                    "attempts": 1,
                    "outcome": "completed",
                    "ended_by": "sample_exit",
                    "result_ids": [result.result_id for result in results],
                    "more_results": more_results,
                    "lost_attempts": lost_attempts,
                    "errors": [],
                    "parent": {"task_id": parent, **found} if parent else None,
                }
            ),
            message_id,
        )

    async def captured(self, content: bytes) -> None:
        """The machine's record of packets is in the store, and the bus knows."""
        blob = await self.blobs.put_bytes(content)
        of = {"machine_id": "linux-1", "epoch": 3, "task_id": self.task_id, "lease_id": derived("lea", self.task_id)}
        await self.tell(CaptureStored.model_validate({**of, "blob": blob, "packets": 0, "is_truncated": False}))

    async def left(self) -> None:
        """The machine is out of the pool."""
        await self.tell(MachineQuarantined(machine_id="linux-1", epoch=4, task_id=self.task_id, reason="a test"))

    async def until_ready(self) -> None:
        """The service says that it is ready. Raises TimeoutError."""
        await self._answered("/health/results")

    async def _answered(self, path: str, subject: str = "ann") -> None:
        """The path is answered with what was asked for. Raises TimeoutError."""
        async with asyncio.timeout(ANSWER_MAX_S):
            while True:
                with suppress(httpx.TransportError):
                    if (await self.get(path, subject=subject)).status_code == httpx.codes.OK:
                        return
                await asyncio.sleep(0.05)

    async def get(self, path: str, *, subject: str = "ann", roles: str = "", **headers: str) -> httpx.Response:
        """The answer, as the gateway would ask for it."""
        proven = {"X-Malbox-Subject": subject, "X-Malbox-Roles": roles, "X-Malbox-Gateway": SECRET}
        return await self.http.get(f"/api/v1{path}", headers={**proven, **headers}, timeout=10)


def sample() -> dict[str, Any]:
    """The sample of every test."""
    return {"blob": {"sha256": "ab" * 32, "size_bytes": 68}, "name": "harmless.sh"}


def settings(amqp_url: str, database_url: str, folder: Path, **changes: Any) -> ResultsSettings:
    """Settings of a service of the test's own, on a free port."""
    return ResultsSettings(
        amqp_url=amqp_url,
        database_url=database_url,
        blob_dir=folder / "blobs",
        scratch_dir=folder,
        http_port=free_port(),
        gateway_secret=SECRET,
        **changes,
    )


@asynccontextmanager
async def connected(to: ResultsSettings) -> AsyncIterator[Bench]:
    """The bench of a service that is starting; it is ready, and everything that it says is kept."""
    connection = await aio_pika.connect_robust(to.amqp_url, timeout=10)
    async with httpx.AsyncClient(base_url=f"http://{to.http_host}:{to.http_port}") as http:
        bench = Bench(BlobStore(to.blob_dir), await connection.channel(), http)
        await bench.until_ready()
        await listen(bench)
        yield bench
    await connection.close()


async def listen(bench: Bench) -> None:
    """Everything that the service says is kept."""
    queue = await bench.channel.declare_queue(exclusive=True)
    await queue.bind("malbox.facts", "results.#", timeout=10)

    async def keep(message: AbstractIncomingMessage) -> None:
        async with message.process(), bench.news:
            bench.heard.append(unwrap(Envelope.from_json(message.body)))
            bench.news.notify_all()

    await queue.consume(keep, timeout=10)
