"""One durable hop: consume, inbox + event + outbox in one commit, acknowledge, relay, next consumer. Real servers."""

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from uuid import uuid4

import aio_pika
import asyncpg
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage

from contracts.envelope import Envelope
from contracts.ids import new
from contracts.intake import TaskCancellationRequested
from contracts.scheduler import TaskQueued
from deploy.local import settings
from deploy.local.installation import Installation
from deploy.local.ports import choose
from deploy.local.postgres import DATABASE
from deploy.local.secrets import BROKER_ADMIN, DATABASE_SUPERUSER
from deploy.local.state import STATE_VARIABLE, DeployError, own_directory, write_private
from services.chassis.unit import FACTS_EXCHANGE
from tests.bench import hop_service
from tests.bench.measure import Reference, Row, percentile
from tests.bench.wire import Refused

PACED = Reference("bare aio-pika + one statement 9.7 ms", "<= 8 ms")
FLOODED = Reference("bare 640/s; Karton 521/s not durable, 275/s with fsync", ">= 600/s")
RATE_PER_S = 50
PACED_COUNT = 250
FLOOD_COUNT = 1500
HEARING_TIMEOUT_S = 60.0
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 15.0
PREFETCH = 500
WHAT = (
    "a service on the real chassis in a process of its own: consume, one commit of inbox + event + outbox, ack, "
    "relay with confirm, next consumer; real RabbitMQ (quorum queues, audit stream bound) and PostgreSQL"
)


def hop(here: Installation, runs: int) -> list[Row]:
    """The latency of a hop at an easy pace, and how many per second one process does when it is flooded."""
    with _service(here):
        return asyncio.run(_measured(here, runs))


async def _measured(here: Installation, runs: int) -> list[Row]:
    async with _ends(here) as ends:
        await ends.run(RATE_PER_S, RATE_PER_S)  # everything has been done once
        paced = [await ends.run(PACED_COUNT, RATE_PER_S) for _ in range(runs)]
        flooded = [await ends.run(FLOOD_COUNT, None) for _ in range(runs)]
    milliseconds = [sorted(1000 * latency for latency in run.latencies) for run in paced]
    return [
        Row(
            name="one durable hop, p50",
            what_ran=f"{WHAT}; {PACED_COUNT} messages at {RATE_PER_S}/s a run",
            unit="ms",
            values=tuple(percentile(run, 0.5) for run in milliseconds),
            reference=PACED,
            parts={f"p{share:.0%}": percentile([*chain(*milliseconds)], share) for share in (0.05, 0.5, 0.95, 0.99)},
        ),
        Row(
            name="durable hops per process, saturated",
            what_ran=f"{WHAT}; {FLOOD_COUNT} messages published as fast as the broker confirms them",
            unit="/s",
            values=tuple(run.rate_per_s for run in flooded),
            reference=FLOODED,
        ),
    ]


class _Run:
    """One run: when each message was sent and when its successor was heard."""

    def __init__(self) -> None:
        self.sent_at: dict[str, float] = {}
        self.heard_at: dict[str, float] = {}

    @property
    def latencies(self) -> list[float]:
        """Seconds from sending to hearing."""
        return [heard - self.sent_at[task_id] for task_id, heard in self.heard_at.items()]

    @property
    def rate_per_s(self) -> float:
        """Hops per second, from the first message sent to the last one heard."""
        return len(self.heard_at) / (max(self.heard_at.values()) - min(self.sent_at.values()))


class _Ends:
    """Both ends of the hop."""

    def __init__(self, exchange: AbstractExchange) -> None:
        self._exchange = exchange
        self._now = _Run()
        self._wanted = 0
        self._all_heard = asyncio.Event()

    async def hear(self, message: AbstractIncomingMessage) -> None:
        """The service's message came."""
        at = time.monotonic()
        await message.ack()
        task_id = str(Envelope.from_json(message.body).subject)
        if task_id in self._now.sent_at:
            self._now.heard_at.setdefault(task_id, at)
        if len(self._now.heard_at) >= self._wanted:
            self._all_heard.set()

    async def run(self, count: int, rate_per_s: float | None) -> _Run:
        """So many messages went through. Raises Refused when some did not."""
        self._now, self._wanted = _Run(), count
        self._all_heard.clear()
        bodies = [_message() for _ in range(count)]
        gate = asyncio.Semaphore(PREFETCH)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, (task_id, body) in enumerate(bodies):
                if rate_per_s is not None:
                    await asyncio.sleep(max(0.0, began + number / rate_per_s - time.monotonic()))
                await gate.acquire()
                self._now.sent_at[task_id] = time.monotonic()
                group.create_task(self._publish(task_id, body, gate))
        try:
            await asyncio.wait_for(self._all_heard.wait(), HEARING_TIMEOUT_S)
        except TimeoutError as error:
            raise Refused(f"of {count} messages {len(self._now.heard_at)} came through") from error
        return self._now

    async def _publish(self, task_id: str, body: bytes, gate: asyncio.Semaphore) -> None:
        try:
            await self._exchange.publish(
                aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, message_id=f"msg_{task_id}"),
                TaskCancellationRequested.routing_key(),
                mandatory=True,
                timeout=HEARING_TIMEOUT_S,
            )
        finally:
            gate.release()


@contextlib.asynccontextmanager
async def _ends(here: Installation) -> AsyncIterator[_Ends]:
    connection = await aio_pika.connect(here.rabbitmq().url(BROKER_ADMIN), timeout=10)
    async with connection:
        exchange = await _facts_exchange(await connection.channel(publisher_confirms=True))
        ends = _Ends(exchange)
        listening = await connection.channel()
        await listening.set_qos(PREFETCH)
        queue = await listening.declare_queue("bench.facts", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(FACTS_EXCHANGE, TaskQueued.routing_key())
        await queue.consume(ends.hear)
        yield ends


async def _facts_exchange(channel: AbstractChannel) -> AbstractExchange:
    return await channel.get_exchange(FACTS_EXCHANGE, ensure=True)


def _message() -> tuple[str, bytes]:
    task_id = new("tsk", uuid4())
    fact = TaskCancellationRequested(task_id=task_id, by="bench", reason="measured")
    envelope = Envelope.wrap(fact, message_id=f"msg_{task_id}", source="intake", at=datetime.now(UTC))
    return task_id, envelope.to_json()


@contextlib.contextmanager
def _service(here: Installation) -> Iterator[None]:
    """The service runs, in a process of its own, until the block ends."""
    asyncio.run(_make_schema(here))
    config = _settings(here)
    log = here.state.log / "hop.log"
    env = {
        "PATH": os.environ["PATH"],
        "MALBOX_CONFIG": str(config),
        STATE_VARIABLE: str(here.state.root),  # the mark by which a later run finds what a killed one left
        "PYTHONPATH": f"{here.state.app}:{Path(__file__).resolve().parents[2]}",  # what is installed, and this folder
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(here.state.python), "-m", hop_service.__name__],
            env=env,
            stdout=output,
            stderr=output,
            cwd=here.state.run,
        )
    try:
        _await_start(process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_TIMEOUT_S)


def _await_start(process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while "service_started" not in (said := log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise DeployError(f"the hop's service did not start:\n{said[-2000:]}")
        time.sleep(0.05)


async def _make_schema(here: Installation) -> None:
    connection = await asyncpg.connect(here.postgres().url(DATABASE_SUPERUSER, DATABASE), timeout=10)
    try:
        await connection.execute(f"CREATE SCHEMA {hop_service.NAME}")
    finally:
        await connection.close(timeout=10)


def _settings(here: Installation) -> Path:
    scratch = here.state.scratch / hop_service.NAME
    own_directory(scratch, None, 0o700)
    path = here.state.etc / f"{hop_service.NAME}.toml"
    values = {
        "amqp_url": here.rabbitmq().url(BROKER_ADMIN),
        "database_url": here.postgres().url(DATABASE_SUPERUSER, DATABASE),
        "blob_dir": str(scratch / "blobs"),
        "scratch_dir": str(scratch),
        "http_port": choose(here.state, hop_service.NAME, avoid=set()),
        "gateway_secret": here.secrets.gateway,
    }
    write_private(path, settings.toml(values))
    return path
