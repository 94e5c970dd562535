"""What must exist on the broker before a service listens.

The shared exchanges and the audit stream belong to the installation, whose definitions make them; a service only looks
whether they are there, and makes them where nobody has (a broker of a test's own). Its own queues it declares itself.
"""

from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import ChannelNotFoundEntity

from services.chassis.topology import Inbound, Topology
from services.chassis.unit import COMMANDS_EXCHANGE, FACTS_EXCHANGE

AUDIT_STREAM = "malbox.audit"
AUDIT_MAX_BYTES = 2 * 1024**3
EVERY_PUBLIC_FACT = "*.*.*.*"
CONNECT_TIMEOUT_S = 10.0
HEARTBEAT_S = 10
"""After two of them without a word the broker gives what a process that stands still had to others."""


def with_heartbeat(url: str) -> str:
    """How to connect so that neither side takes long to notice that the other is gone."""
    return str(make_url(url).update_query(heartbeat=HEARTBEAT_S))


async def prepare(url: str, topology: Topology) -> None:
    """Exchanges, the audit stream, and the service's queues with their bindings exist."""
    connection = await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S)
    async with connection:
        if not await _has_shared(connection):
            await _make_shared(await connection.channel())
        channel = await connection.channel()
        for inbound in topology.inbound:
            await _declare(channel, inbound)


async def _has_shared(connection: AbstractConnection) -> bool:
    """A passive declaration of what is not there closes its channel, so the look has one of its own."""
    channel = await connection.channel()
    try:
        for name in (FACTS_EXCHANGE, COMMANDS_EXCHANGE):
            await channel.declare_exchange(name, passive=True)
    except ChannelNotFoundEntity:
        return False
    return True


async def _make_shared(channel: AbstractChannel) -> None:
    facts = await channel.declare_exchange(FACTS_EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
    await channel.declare_exchange(COMMANDS_EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True)
    arguments: dict[str, Any] = {"x-queue-type": "stream", "x-max-length-bytes": AUDIT_MAX_BYTES}
    audit = await channel.declare_queue(AUDIT_STREAM, durable=True, arguments=arguments)
    await audit.bind(facts, routing_key=EVERY_PUBLIC_FACT)


async def _declare(channel: AbstractChannel, inbound: Inbound) -> None:
    own = await channel.declare_exchange(inbound.own_exchange, aio_pika.ExchangeType.DIRECT, durable=True)
    for name, arguments in inbound.queues.items():
        queue = await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum", **arguments})
        await queue.bind(own, routing_key=name)
        for key in inbound.keys if name == inbound.name else ():
            await queue.bind(inbound.exchange, routing_key=key)
