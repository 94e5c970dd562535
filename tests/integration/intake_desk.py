"""The real intake service in this process, on a database and a virtual host of the test's own."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import httpx

from contracts.catalogue import unwrap
from contracts.envelope import Envelope, Message
from contracts.machines import MachineRegistered, MachineSummary
from contracts.plugins import PluginManifest, PluginRegistered
from services.chassis.run import serve
from services.intake.main import compose, migrations
from services.intake.settings import IntakeSettings
from tests.ports import free_port

SECRET = "gateway-secret-of-a-test"
TOKEN = "token-of-a-test"
FACTS = "malbox.facts"
MACHINE = MachineSummary(
    machine_id="linux-1", host="local", profile="linux", platform="linux", arch="x86_64", routes=("none", "simulated")
)
PLUGIN = PluginManifest(name="yara", version="1.0.0", description="rules", kind="host", stages=("static",))


@dataclass
class Desk:
    """A running intake: its HTTP, and the bus it is on."""

    client: httpx.AsyncClient
    settings: IntakeSettings
    channel: aio_pika.abc.AbstractChannel
    heard: aio_pika.abc.AbstractQueue

    def headers(self, subject: str = "ann", roles: str = "", **more: str) -> dict[str, str]:
        """What the gateway adds for a caller whom it knows."""
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {
            "X-Malbox-Gateway": self.settings.gateway_secret,
            "X-Malbox-Subject": subject,
            "X-Malbox-Roles": roles,
            **named,
        }

    async def submit(
        self, content: bytes = b"sample", *, name: str = "a.exe", subject: str = "ann", key: str = "", **fields: Any
    ) -> httpx.Response:
        """POST /submissions as the gateway would pass it on."""
        more = {"Idempotency-Key": key} if key else {}
        return await self.client.post(
            "/submissions",
            files={"file": (name, content, "application/octet-stream")},
            data=fields,
            headers=self.headers(subject, **more),
        )

    async def say(self, message: Message) -> None:
        """The fact is on the bus."""
        envelope = Envelope.wrap(message, message_id=f"msg_{uuid4().hex}", source="test", at=datetime.now(UTC))
        exchange = await self.channel.get_exchange(FACTS)
        await exchange.publish(aio_pika.Message(envelope.to_json()), message.routing_key(), timeout=10)

    async def next_fact(self, timeout_s: float = 60) -> tuple[str, Message]:
        """The id and content of the next fact that intake said."""
        async with asyncio.timeout(timeout_s):
            while True:
                message = await self.heard.get(no_ack=True, fail=False, timeout=5)
                if message is not None:
                    envelope = Envelope.from_json(message.body)
                    return envelope.id, unwrap(envelope)
                await asyncio.sleep(0.02)

    async def know(self) -> None:
        """One machine and one plugin are known to intake."""
        await self.say(MachineRegistered(machine_id="linux-1", epoch=0, machine=MACHINE))
        await self.say(PluginRegistered(manifest=PLUGIN))
        await self.until_known(lambda known: bool(known["machines"] and known["plugins"]))

    async def until_known(self, is_so: Any) -> dict[str, Any]:
        """What a submission may ask for, once `is_so` holds of it; within a minute."""
        async with asyncio.timeout(60):
            while True:
                known: dict[str, Any] = (await self.client.get("/submissions/options", headers=self.headers())).json()
                if is_so(known):
                    return known
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(database_url: str, amqp_url: str, directory: Path, **changes: Any) -> AsyncIterator[Desk]:
    """Intake runs until the block ends, and ends cleanly."""
    settings = IntakeSettings(
        amqp_url=amqp_url,
        database_url=database_url,
        blob_dir=directory / "blobs",
        scratch_dir=directory / "scratch",
        http_port=free_port(),
        gateway_secret=SECRET,
        admin_token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
        **changes,
    )
    stop = asyncio.Event()
    service = asyncio.create_task(serve("intake", settings, compose, migrations=migrations(), stop=stop))
    try:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.http_port}/api/v1", timeout=30, trust_env=False)
            )
            await _until_healthy(client, service)
            connection = await stack.enter_async_context(await aio_pika.connect(amqp_url, timeout=10))
            channel = await connection.channel()
            heard = await channel.declare_queue(exclusive=True)
            await heard.bind(FACTS, "intake.#")
            yield Desk(client, settings, channel, heard)
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await service


async def _until_healthy(client: httpx.AsyncClient, service: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(60):
        while not service.done():
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/health/intake")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
    await service


class Cable:
    """A TCP connection to a server that can be pulled out and put back."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = free_port()

    async def plug_in(self) -> None:
        """Connections to `port` reach the server."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)

    async def pull_out(self) -> None:
        """Every connection is cut, and new ones are refused."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self._server = None

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
