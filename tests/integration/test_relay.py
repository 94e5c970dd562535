"""The publishing edge on a real broker: a message that nobody takes stays, and stands in nobody's way."""

from pathlib import Path

import aio_pika
import pytest

from contracts.intake import SampleStored
from contracts.scheduler import SealReport
from services.chassis.relay import BATCH_MAX
from services.chassis.run import Service
from services.chassis.settings import ServiceSettings
from services.chassis.store import Store
from tests.integration.chassis_bench import DEADLINE_S, SEAL, eventually, note, rows, running, settings_of, wrapped

pytestmark = pytest.mark.integration
INTO_OUTBOX = "INSERT INTO outbox (message_id, exchange, routing_key, body) VALUES ($1, $2, $3, $4)"


@pytest.fixture
def settings(amqp_url: str, database_url: str, tmp_path: Path) -> ServiceSettings:
    """Of a service named `results`."""
    return settings_of(amqp_url, database_url, tmp_path)


@pytest.mark.promise("P12", "P14")
async def test_messages_that_nobody_takes_stand_in_nobody_s_way(settings: ServiceSettings) -> None:
    """More than a batch of them wait at the head of the outbox; what comes after them is said, and they stay."""
    async with running(settings, Service(handlers={SampleStored: note, SealReport: note})) as store:
        for number in range(BATCH_MAX + 1):
            await store.fetch(INTO_OUTBOX, f"msg_lost_{number}", "malbox.commands", "nobody", b"{}")
        await say_one(store)
        left = await store.fetch("SELECT count(*) AS n FROM outbox WHERE routing_key = 'nobody'")
        assert left[0]["n"] == BATCH_MAX + 1


@pytest.mark.promise("P12")
async def test_what_nobody_took_is_said_when_somebody_does(settings: ServiceSettings) -> None:
    """It is tried again by itself: nothing else has to be said for that."""
    async with running(settings, Service(handlers={SampleStored: note, SealReport: note})) as store:
        for number in range(3):
            await store.fetch(INTO_OUTBOX, f"msg_{number}", "malbox.commands", "nobody", b"{}")
        await say_one(store)
        connection = await aio_pika.connect(settings.amqp_url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("somebody", durable=True)
            await queue.bind("malbox.commands", "nobody")

            async def is_empty() -> bool:
                return not await store.fetch("SELECT 1 FROM outbox")

            await eventually(is_empty)
            for _ in range(3):
                await (await queue.get(timeout=DEADLINE_S)).ack()


async def say_one(store: Store) -> None:
    """Something was said and heard while the others were refused."""
    await store.fetch(INTO_OUTBOX, "msg_good", "malbox.commands", "results", wrapped(SEAL, "msg_good"))
    await eventually(lambda: rows(store))
