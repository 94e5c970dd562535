"""The results service for real: RabbitMQ, PostgreSQL, the object store and HTTP."""

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractRobustConnection

from contracts.blobs import BlobRef
from contracts.catalogue import unwrap
from contracts.envelope import Command, Envelope, Message
from contracts.ids import derived
from contracts.intake import TaskSubmitted
from contracts.plugins import PluginResultProduced
from contracts.results import ArtifactStored, ReportReady
from contracts.scheduler import SealReport, TaskStarted
from services.chassis.blobs import BlobStore
from services.chassis.run import serve
from services.results.main import compose
from services.results.migrations import MIGRATIONS
from services.results.settings import ResultsSettings

pytestmark = pytest.mark.integration
SECRET = "s" * 32
PATIENCE_S = 2.0
HEARING_MAX_S = 20.0
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

    async def seal(self, *results: PluginResultProduced, message_id: str | None = None) -> None:
        """The report of these results is ordered."""
        await self.tell(
            SealReport.model_validate(
                {
                    "task_id": self.task_id,
                    "submission_id": derived("sub", self.task_id),
                    "owner": "ann",
                    "sample": sample(),
                    "request": {},
                    "plan": {"stages": []},
                    "submitted_at": datetime.now(UTC),
                    "machine_id": "linux-1",
                    "platform": "linux",
                    "acceleration": "tcg",
                    "attempts": 1,
                    "outcome": "completed",
                    "ended_by": "sample_exit",
                    "result_ids": [result.result_id for result in results],
                    "errors": [],
                }
            ),
            message_id,
        )

    async def get(self, path: str, *, subject: str = "ann", roles: str = "", **headers: str) -> httpx.Response:
        """The answer, as the gateway would ask for it."""
        proven = {"X-Malbox-Subject": subject, "X-Malbox-Roles": roles, "X-Malbox-Gateway": SECRET}
        return await self.http.get(f"/api/v1{path}", headers={**proven, **headers}, timeout=10)


def sample() -> dict[str, Any]:
    """The sample of every test."""
    return {"blob": {"sha256": "ab" * 32, "size_bytes": 68}, "name": "harmless.sh"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
async def bench(database_url: str, amqp_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """The service runs; it has ended cleanly when the test is over."""
    port, stop = free_port(), asyncio.Event()
    settings = ResultsSettings(
        amqp_url=amqp_url,
        database_url=database_url,
        blob_dir=tmp_path / "blobs",
        scratch_dir=tmp_path,
        http_port=port,
        gateway_secret=SECRET,
        seal_patience_s=PATIENCE_S,
    )
    service = asyncio.create_task(serve("results", settings, compose, migrations=MIGRATIONS, stop=stop))
    connection: AbstractRobustConnection = await aio_pika.connect_robust(amqp_url, timeout=10)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        bench = Bench(BlobStore(tmp_path / "blobs"), await connection.channel(), http)
        await until_ready(http, service)
        await listen(bench)
        yield bench
    await connection.close()
    stop.set()
    await asyncio.wait_for(service, 20)


async def until_ready(http: httpx.AsyncClient, service: "asyncio.Task[None]") -> None:
    """The service says that it is ready."""
    async with asyncio.timeout(30):
        while not service.done():
            with suppress(httpx.TransportError):
                if (await http.get("/api/v1/health/results", timeout=5)).status_code == httpx.codes.OK:
                    return
            await asyncio.sleep(0.05)
        await service


async def listen(bench: Bench) -> None:
    """Everything that the service says is kept."""
    queue = await bench.channel.declare_queue(exclusive=True)
    await queue.bind("malbox.facts", "results.#", timeout=10)

    async def keep(message: AbstractIncomingMessage) -> None:
        async with message.process(), bench.news:
            bench.heard.append(unwrap(Envelope.from_json(message.body)))
            bench.news.notify_all()

    await queue.consume(keep, timeout=10)


YARA = json.dumps({"matches": [{"rule": "eicar", "severity": 100, "attack": "T1204.002"}]}).encode()


@pytest.mark.promise("E1", "E2", "P31")
async def test_a_report_is_sealed_from_the_results_and_served_to_its_owner(bench: Bench) -> None:
    """What plugins produced becomes a readable report, its artifacts the same bytes as produced."""
    dropped = bytes(range(256)) * 5000
    await bench.submit()
    yara = await bench.produce("yara", YARA)
    file = await bench.produce(
        "syscalls", dropped, stage="guest", name="dropped/1", kind="file", path='/tmp/a"\n;rm\x00.sh'
    )
    await bench.seal(yara, file)
    [ready] = await bench.hear(ReportReady)
    assert (ready.verdict, ready.score, ready.missing_results) == ("malicious", 100, ())
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    assert report["reasons"][0]["evidence"] == {
        "plugin": "yara",
        "result_id": yara.result_id,
        "pointer": "/matches/0",
    }
    [artifact] = report["artifacts"]
    download = await bench.get(f"/artifacts/{artifact['result_id']}")
    assert download.content == dropped
    assert download.headers["etag"] == f'"{hashlib.sha256(dropped).hexdigest()}"'
    assert download.headers["content-disposition"].startswith('attachment; filename="a')
    assert download.headers["x-content-type-options"] == "nosniff"
    assert download.headers["content-type"] == "application/octet-stream"
    assert {fact.result_id for fact in await bench.hear(ArtifactStored, 2)} == {yara.result_id, file.result_id}


@pytest.mark.promise("E1")
async def test_a_part_of_an_artifact_can_be_had(bench: Bench) -> None:
    """Ranges, conditional requests and impossible ranges are answered as HTTP says."""
    content = bytes(range(256)) * 20
    await bench.submit()
    fact = await bench.produce("syscalls", content, kind="bytes", name="trace")
    await bench.hear(ArtifactStored)
    path, tag = f"/artifacts/{fact.result_id}", f'"{hashlib.sha256(content).hexdigest()}"'
    part = await bench.get(path, Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert (await bench.get(path, Range="bytes=-5")).content == content[-5:]
    assert (await bench.get(path, Range="bytes=99999-")).status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
    assert (await bench.get(path, **{"If-None-Match": tag})).status_code == httpx.codes.NOT_MODIFIED
    changed = await bench.get(path, Range="bytes=0-0", **{"If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, content)


@pytest.mark.promise("P39")
async def test_only_the_owner_and_an_administrator_may_see_a_task(bench: Bench) -> None:
    """A stranger gets the answer for what does not exist; without the gateway's word there is no answer at all."""
    await bench.submit(owner="ann")
    fact = await bench.produce("yara", YARA)
    await bench.hear(ArtifactStored)
    await bench.seal(fact)
    await bench.hear(ReportReady)
    for path in (
        f"/tasks/{bench.task_id}/report",
        f"/tasks/{bench.task_id}/results",
        f"/tasks/{bench.task_id}/artifacts",
        f"/artifacts/{fact.result_id}",
    ):
        assert (await bench.get(path)).status_code == httpx.codes.OK
        assert (await bench.get(path, subject="eve", roles="admin")).status_code == httpx.codes.OK
        refused = await bench.get(path, subject="eve")
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        assert (await bench.http.get(f"/api/v1{path}", timeout=10)).status_code == httpx.codes.UNAUTHORIZED


async def test_a_report_that_is_not_ready_says_how_far_the_task_is(bench: Bench) -> None:
    """Asking early is answered with the state, not with an empty report."""
    await bench.submit()
    await bench.tell(TaskStarted(task_id=bench.task_id, machine_id="linux-1", attempt=1))
    for _ in range(200):
        answer = await bench.get(f"/tasks/{bench.task_id}/report")
        if answer.json().get("state") == "running":
            break
        await asyncio.sleep(0.05)
    assert (answer.status_code, answer.json()["code"]) == (404, "report_not_ready")
    assert "running" in answer.json()["detail"]


@pytest.mark.promise("P15", "E2")
async def test_the_order_of_messages_and_their_repetition_change_nothing(bench: Bench) -> None:
    """Sealing ordered before the results arrive waits for them; repeated, it announces the same report again."""
    fact = bench.result("yara", await bench.blobs.put_bytes(YARA))
    await bench.seal(fact, message_id="order-1")
    await asyncio.sleep(0.3)
    assert not bench.said(ReportReady)
    await bench.tell(fact)
    await bench.tell(fact)
    [first] = await bench.hear(ReportReady)
    assert first.missing_results == ()
    await bench.seal(fact, message_id="order-1")
    await bench.seal(fact, message_id="order-2")
    await bench.hear(ReportReady, 2)
    await asyncio.sleep(0.5)
    assert bench.said(ReportReady) == [first, first]
    page = (await bench.get(f"/tasks/{bench.task_id}/results")).json()
    assert [item["result_id"] for item in page["items"]] == [fact.result_id]


@pytest.mark.promise("G8")
async def test_a_result_whose_bytes_are_lost_is_waited_for_and_then_named(bench: Bench) -> None:
    """A report is not sealed over missing bytes until patience ends; then it says exactly what is missing."""
    await bench.submit()
    there = await bench.produce("yara", YARA)
    lost = bench.result("identity", BlobRef(sha256="cd" * 32, size_bytes=10))
    never = bench.result("elf", BlobRef(sha256="ef" * 32, size_bytes=10))
    await bench.tell(lost)
    ordered_at = asyncio.get_running_loop().time()
    await bench.seal(there, lost, never)
    [ready] = await bench.hear(ReportReady)
    assert asyncio.get_running_loop().time() - ordered_at >= PATIENCE_S
    assert set(ready.missing_results) == {lost.result_id, never.result_id}
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    reasons = {error["result_id"]: error["reason"] for error in report["errors"]}
    assert "10 bytes are not in the object store" in reasons[lost.result_id]
    assert "never arrived" in reasons[never.result_id]
    assert (await bench.get(f"/artifacts/{lost.result_id}")).status_code == httpx.codes.GONE


@pytest.mark.promise("P30", "P35")
async def test_a_result_that_is_not_what_it_should_be_costs_only_itself(bench: Bench) -> None:
    """Garbage instead of JSON is an error in the report, and the rest of the evidence counts."""
    garbage = await bench.produce("behaviour", b"\xff\x00{[", stage="post")
    yara = await bench.produce("yara", YARA)
    await bench.seal(garbage, yara)
    [ready] = await bench.hear(ReportReady)
    assert ready.verdict == "malicious"
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    assert [error["result_id"] for error in report["errors"]] == [garbage.result_id]
