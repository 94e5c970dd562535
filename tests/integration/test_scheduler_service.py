"""The scheduler as it runs: real broker, real database, its own HTTP; a test is everybody else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import pytest

from contracts.catalogue import unwrap
from contracts.envelope import Envelope, Message
from contracts.plugins import PluginRegistered, PluginStageCompleted
from contracts.results import ReportReady
from contracts.scheduler import CancelStage, LeaseMachine, ReleaseMachine, SealReport, TaskCancelled
from services.chassis.run import serve
from services.scheduler.announcements import announce
from services.scheduler.main import MIGRATIONS, compose
from services.scheduler.settings import SchedulerSettings
from tests.contracts.examples import BLOB
from tests.integration.scheduler_desk import GUEST_PLUGIN, HOST_PLUGIN, RESULT, Desk
from tests.ports import free_port
from tests.unit.scheduler.tasks import submission

pytestmark = pytest.mark.integration

HEARING_MAX_S = 60.0
SECRET = "gateway-secret-of-a-test"


@dataclass
class Others:
    """Intake, machines, plugins, results and a client in one."""

    channel: aio_pika.abc.AbstractChannel
    http: httpx.AsyncClient
    rows: "asyncpg.Connection[Any]"
    heard: list[Message] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def say(self, message: Message) -> None:
        """The fact is on the bus."""
        envelope = Envelope.wrap(message, message_id=uuid4().hex, source="test", at=datetime.now(UTC), sequence=1)
        exchange = await self.channel.get_exchange("malbox.facts", ensure=False)
        await exchange.publish(aio_pika.Message(envelope.to_json()), message.routing_key(), timeout=10)

    async def know(self) -> None:
        """Two plugins and a ready machine are on the bus, and known to the scheduler, which handles many at once."""
        for manifest in (HOST_PLUGIN, GUEST_PLUGIN):
            await self.say(PluginRegistered(manifest=manifest))
        await self.say(Desk.registered("linux-1", "ready", epoch=3))
        known = "SELECT (SELECT count(*) FROM scheduler.catalogue) + (SELECT count(*) FROM scheduler.pool)"
        async with asyncio.timeout(HEARING_MAX_S):
            while await self.rows.fetchval(known) < 3:  # noqa: ASYNC110 - no fact says that it is known
                await asyncio.sleep(0.02)

    async def take(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        """What the scheduler said or ordered."""
        async with message.process(), self.news:
            self.heard.append(unwrap(Envelope.from_json(message.body)))
            self.news.notify_all()

    async def hear(self, kind: type[Message]) -> Any:
        """The first message of the kind, once it was said."""
        async with asyncio.timeout(HEARING_MAX_S), self.news:
            await self.news.wait_for(lambda: any(isinstance(message, kind) for message in self.heard))
        return next(message for message in self.heard if isinstance(message, kind))

    async def ask(self, method: str, path: str) -> httpx.Response:
        """The answer, as the gateway would ask for it on behalf of the owner."""
        headers = {"X-Malbox-Subject": "ana", "X-Malbox-Gateway": SECRET}
        return await self.http.request(method, path, headers=headers)


@pytest.fixture
async def others(amqp_url: str, database_url: str, tmp_path: Path) -> AsyncIterator[Others]:
    """A running scheduler, seen from all sides."""
    settings = SchedulerSettings(
        amqp_url=amqp_url,
        database_url=database_url,
        blob_dir=tmp_path / "blobs",
        scratch_dir=tmp_path / "scratch",
        http_port=free_port(),
        gateway_secret=SECRET,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(
        serve("scheduler", settings, compose, migrations=MIGRATIONS, announce=announce, stop=stop)
    )
    url = f"http://127.0.0.1:{settings.http_port}/api/v1"
    try:
        async with (
            httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client,
            await aio_pika.connect(amqp_url, timeout=10) as connection,
        ):
            async with asyncio.timeout(HEARING_MAX_S):
                while not running.done():
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get("/health/scheduler")).status_code == 200:
                            break
                    await asyncio.sleep(0.05)
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind("malbox.facts", "scheduler.#")
            for key in ("machines.local", "plugins", "results"):
                await queue.bind("malbox.commands", key)
            rows = await asyncpg.connect(database_url, timeout=10)
            seen = Others(channel, client, rows)
            await queue.consume(seen.take)
            yield seen
            await rows.close()
    finally:
        stop.set()
        await asyncio.wait_for(running, HEARING_MAX_S)


@pytest.mark.promise("B1a", "G1", "P9", "P20")
async def test_a_task_that_is_cancelled_while_its_machine_is_prepared_gives_it_back_and_ends(others: Others) -> None:
    """Over HTTP and the bus: 202, the stage stops, the machine that comes too late goes back, the end is said once."""
    await others.know()
    asked = submission()
    await others.say(asked)
    order = await others.hear(LeaseMachine)
    shown = (await others.ask("POST", f"/tasks/{asked.task_id}/cancel")).json()
    assert (shown["state"], shown["why"]) == ("preparing", "being cancelled by ana")
    assert (await others.hear(CancelStage)).stage == "static"
    lease = Desk.leased(order)
    await others.say(lease)
    assert (await others.hear(ReleaseMachine)).lease_id == lease.lease.lease_id
    await others.say(PluginStageCompleted(task_id=asked.task_id, attempt=1, stage="static", result_ids=(RESULT,)))
    assert (await others.hear(SealReport)).outcome == "cancelled"
    await others.say(Desk.clean(lease, asked.task_id, epoch=5))
    await others.say(ReportReady(task_id=asked.task_id, verdict="unknown", score=0, report=BLOB))
    await others.hear(TaskCancelled)
    task = (await others.ask("GET", f"/tasks/{asked.task_id}")).json()
    assert (task["state"], task["machine"]) == ("cancelled", "clean")
    assert {phase["phase"] for phase in task["phases"] if phase["spent_s"]} >= {"queue", "boot", "cleanup"}
    again = await others.ask("POST", f"/tasks/{asked.task_id}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "task_is_over")
    assert len([message for message in others.heard if isinstance(message, TaskCancelled)]) == 1
