"""A service of a test's own on the real chassis, broker and database, and what a test asks of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aio_pika

from contracts.envelope import Envelope, Message
from contracts.intake import SampleStored
from contracts.scheduler import SealReport
from services.chassis.clock import SystemClock
from services.chassis.run import Runtime, Service, serve
from services.chassis.settings import ServiceSettings
from services.chassis.store import Store
from services.chassis.unit import Unit
from tests.contracts.examples import EXAMPLES

NAME = "results"
SEEN = "CREATE TABLE seen (n serial, what text NOT NULL)"
DEADLINE_S = 60.0
STORED = next(one for one in EXAMPLES if isinstance(one, SampleStored))
SEAL = next(one for one in EXAMPLES if isinstance(one, SealReport))
FACTS, DEAD = f"{NAME}.facts", f"{NAME}.facts.dead"


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    """The first true answer, asked again for at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not (answer := await check()):  # noqa: ASYNC110 - it watches another process
            await asyncio.sleep(0.02)
    return answer


def settings_of(amqp_url: str, database_url: str, directory: Path) -> ServiceSettings:
    """Of a service of this bench."""
    return ServiceSettings(
        amqp_url=amqp_url,
        database_url=database_url,
        blob_dir=directory / "blobs",
        scratch_dir=directory,
        http_port=0,
        gateway_secret="0123456789abcdef",
    )


@contextlib.asynccontextmanager
async def running(settings: ServiceSettings, service: Service) -> AsyncIterator[Store]:
    """The service runs; its store is handed out."""
    opened: list[Store] = []

    async def compose(runtime: Runtime) -> Service:
        opened.append(runtime.store)
        return service

    stop = asyncio.Event()
    task = asyncio.create_task(serve(NAME, settings, compose, migrations=(SEEN,), stop=stop))
    try:

        async def is_up() -> bool:
            if task.done():
                task.result()
            return bool(opened) and await queue_length(settings, f"{NAME}.commands.dead") is not None  # made last

        await eventually(is_up)
        yield opened[0]
    finally:
        stop.set()
        await task


async def queue_length(settings: ServiceSettings, name: str) -> int | None:
    """How many messages are ready in the queue, or None while there is no such queue."""
    connection = await aio_pika.connect(settings.amqp_url)
    async with connection:
        channel = await connection.channel()
        try:
            queue = await channel.declare_queue(name, passive=True)
        except aio_pika.exceptions.ChannelClosed:
            return None
        return queue.declaration_result.message_count or 0


async def publish(
    settings: ServiceSettings, body: bytes, *, exchange: str, key: str, headers: dict[str, Any] | None = None
) -> None:
    """The bytes are on the exchange, confirmed."""
    connection = await aio_pika.connect(settings.amqp_url)
    async with connection:
        channel = await connection.channel()
        target = await channel.get_exchange(exchange, ensure=False)
        await target.publish(aio_pika.Message(body, headers=headers), key)


def wrapped(message: Message, message_id: str) -> bytes:
    """The message as it travels."""
    return Envelope.wrap(message, message_id=message_id, source="test", at=SystemClock().now()).to_json()


async def note(what: Message, unit: Unit, _store: Store) -> None:
    """A handler that leaves a row."""
    unit.execute("INSERT INTO seen (what) VALUES ($1)", type(what).__name__)


async def rows(store: Store) -> list[str]:
    """What handlers left."""
    return [row["what"] for row in await store.fetch("SELECT what FROM seen ORDER BY n")]


async def fact(settings: ServiceSettings, message_id: str) -> None:
    """One fact is sent."""
    await publish(settings, wrapped(STORED, message_id), exchange="malbox.facts", key=STORED.routing_key())
