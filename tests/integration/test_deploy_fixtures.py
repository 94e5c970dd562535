"""The servers that tests run on are real, and each test has its own part of them."""

import aio_pika
import asyncpg
import pytest

from deploy.local.state import SERVICES

pytestmark = pytest.mark.integration


async def test_a_test_has_a_database_with_an_empty_schema_per_service(database_url: str) -> None:
    """The schemas of the five services exist in a fresh database."""
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        rows = await connection.fetch("SELECT schema_name FROM information_schema.schemata")
    finally:
        await connection.close()
    assert set(SERVICES) <= {row["schema_name"] for row in rows}


async def test_a_test_has_a_virtual_host_where_messages_travel(amqp_url: str) -> None:
    """A message published to a quorum queue of the fresh virtual host comes back out of it."""
    async with await aio_pika.connect(amqp_url, timeout=10) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), "q", timeout=10)
        message = await queue.get(timeout=10)
        async with message.process():
            assert message.body == b"hello"


async def test_virtual_hosts_of_two_tests_are_strangers(amqp_url: str) -> None:
    """The queue of the test before is not there."""
    async with await aio_pika.connect(amqp_url, timeout=10) as connection:
        channel = await connection.channel()
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.declare_queue("q", passive=True)
