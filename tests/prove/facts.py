"""What an installation says, heard as any integrator hears it: on the bus, the moment it is said."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from deploy.local.broker_rights import FACTS
from deploy.local.installation import Installation
from deploy.local.secrets import INTEGRATOR

CONNECT_TIMEOUT_S = 20.0


class NotHeardError(AssertionError):
    """What had to be said was not said in time."""


@dataclass(frozen=True)
class Fact:
    """One fact: its type without prefix and version, such as `machine.reverted`; `at_s` is this process's clock."""

    name: str
    data: dict[str, Any]
    at_s: float

    def is_of(self, machine_id: str) -> bool:
        """Whether it is about that machine."""
        return self.name.startswith("machine.") and self.data.get("machine_id") == machine_id


class Ear:
    """Every fact since the ear was opened, in the order in which it came."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self._came = asyncio.Condition()

    async def hear(self, message: AbstractIncomingMessage) -> None:
        """One message of the bus."""
        envelope = json.loads(message.body)
        name = str(envelope["type"]).removeprefix("malbox.").rpartition(".")[0]
        async with self._came:
            self.facts.append(Fact(name, envelope["data"], time.monotonic()))
            self._came.notify_all()

    def mark(self) -> int:
        """Where the record ends now."""
        return len(self.facts)

    async def until(self, what: str, is_it: Callable[[Fact], bool], *, since: int, timeout_s: float) -> Fact:
        """The first such fact after the mark. Raises NotHeardError, saying what came instead."""
        position = since
        try:
            async with asyncio.timeout(timeout_s), self._came:
                while True:  # bounded by the timeout
                    for fact in self.facts[position:]:
                        if is_it(fact):
                            return fact
                    position = len(self.facts)
                    await self._came.wait()
        except TimeoutError:
            came = [(fact.name, fact.data.get("reason", "")) for fact in self.facts[since:]][-12:]
            raise NotHeardError(f"not within {timeout_s:.0f} s: {what}; heard was {came}") from None


@contextlib.asynccontextmanager
async def ear(here: Installation) -> AsyncIterator[Ear]:
    """An ear at the installation's bus for as long as the block runs; its queue is gone afterwards."""
    made = Ear()
    connection = await aio_pika.connect(here.rabbitmq().url(INTEGRATOR), timeout=CONNECT_TIMEOUT_S)
    try:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"{INTEGRATOR}.prove-{uuid4().hex}", exclusive=True, auto_delete=True)
        await queue.bind(FACTS, routing_key="*.*.*.*")
        await queue.consume(made.hear, no_ack=True)
        yield made
    finally:
        await connection.close()
