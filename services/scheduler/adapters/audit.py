"""Reads the audit stream: every fact since the stream began, in order, with its offset. Source: RabbitMQ streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from services.chassis.broker_setup import AUDIT_STREAM, with_heartbeat

PREFETCH = 200
CONNECT_TIMEOUT_S = 10.0
END_OF_STREAM_S = 3.0
"""Nothing came for so long: that is the present end. A broker that has much to do may pause for a second."""
OFFSET_HEADER = "x-stream-offset"


class AuditStream:
    """The replayable record of all facts."""

    def __init__(self, url: str) -> None:
        self._url = url

    @staticmethod
    def parse_start(text: str) -> str:
        """`first`, an offset, or an instant, normalised. Raises ValueError."""
        if text == "first" or text.isdigit():
            return text
        return datetime.fromisoformat(text).astimezone(UTC).isoformat()

    async def read(self, start: str, limit: int) -> AsyncIterator[dict[str, Any]]:
        """`{offset, event}` from the start to the present end, at most `limit` of them."""
        connection = await aio_pika.connect(with_heartbeat(self._url), timeout=CONNECT_TIMEOUT_S)
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(PREFETCH)
            queue = await channel.get_queue(AUDIT_STREAM, ensure=False)
            inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
            await queue.consume(inbox.put, arguments={"x-stream-offset": self._offset(start)})
            for _ in range(limit):
                try:
                    message = await asyncio.wait_for(inbox.get(), END_OF_STREAM_S)
                except TimeoutError:
                    return
                await message.ack()
                offset = message.headers.get(OFFSET_HEADER)
                yield {"offset": offset, "event": json.loads(message.body)}

    @staticmethod
    def _offset(start: str) -> Any:
        if start == "first":
            return "first"
        return int(start) if start.isdigit() else datetime.fromisoformat(start)
