"""A plugins service under test: both ends of its bus, its object store, its HTTP, and a guest that follows a script."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import orjson
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts.blobs import BlobRef
from contracts.catalogue import unwrap
from contracts.envelope import Command, Envelope, Message
from contracts.ids import derived
from contracts.machines import GuestEndpoint, LeaseRef
from contracts.plugins import PluginFinished, PluginResultProduced
from contracts.scheduler import CancelStage, RunStage
from services.chassis.blobs import BlobStore
from services.chassis.run import Runtime, Service, serve
from services.plugins.adapters.folders import BUILTIN_DIR, read_catalogue
from services.plugins.main import MIGRATIONS, compose
from services.plugins.ports_guest import (
    Collected,
    Flushed,
    GuestConnector,
    GuestEvent,
    GuestHello,
    GuestSession,
    GuestUnreachable,
    Heartbeat,
    Launched,
    PluginEnding,
    PluginLimits,
    PluginPiece,
    RecordSealed,
)
from services.plugins.settings import PluginsSettings
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SECRET = "s" * 32
VERSIONS = {name: plugin.version for name, plugin in read_catalogue((BUILTIN_DIR,)).plugins.items()}
HEARING_MAX_S = 60.0
M = TypeVar("M", bound=Message)


@dataclass
class Bench:
    """A running plugins service, and both ends of the bus."""

    settings: PluginsSettings
    blobs: BlobStore
    channel: AbstractChannel
    http: httpx.AsyncClient
    task_id: str = field(default_factory=lambda: derived("tsk", uuid4().hex))
    heard: list[Message] = field(default_factory=list)
    said_at: list[datetime] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def tell(self, message: Command) -> None:
        """The command is on the bus, under a fresh message id."""
        envelope = Envelope.wrap(message, message_id=uuid4().hex, source="test", at=datetime.now(UTC))
        exchange = await self.channel.get_exchange("malbox.commands", ensure=False)
        await exchange.publish(aio_pika.Message(envelope.to_json()), message.receiver(), timeout=10)

    async def hear(self, kind: type[M], count: int = 1) -> list[M]:
        """That many messages of the kind were said."""
        async with asyncio.timeout(HEARING_MAX_S), self.news:
            await self.news.wait_for(lambda: len(self.said(kind)) >= count)
        return self.said(kind)

    def said(self, kind: type[M]) -> list[M]:
        """The messages of the kind that were said until now."""
        return [message for message in self.heard if isinstance(message, kind)]

    def ids_of(self, kind: type[Message]) -> list[str]:
        """The ids under which messages of the kind were said."""
        return [number for number, message in zip(self.ids, self.heard, strict=True) if isinstance(message, kind)]

    async def order(self, sample: bytes, *plugins: str, name: str = "sample", **changes: Any) -> RunStage:
        """A stage of those plugins, each in a group of its own, or `planned`, is ordered, with `changes`."""
        blob = await self.blobs.put_bytes(sample)
        fields: dict[str, Any] = {
            "task_id": self.task_id,
            "attempt": 1,
            "stage": changes.pop("planned", None) or planned(changes.pop("stage", "static"), *plugins),
            "sample": {"blob": blob, "name": name},
            "request": {},
        }
        command = RunStage.model_validate({**fields, **changes})
        await self.tell(command)
        return command

    async def cancel(self, stage: str, attempt: int = 1) -> None:
        """The stage is ordered to stop."""
        await self.tell(CancelStage(task_id=self.task_id, attempt=attempt, stage=stage, reason="by ann"))

    async def json_of(self, plugin: str, name: str) -> Any:
        """The JSON result that the plugin produced."""
        [blob] = {fact.blob for fact in self.said(PluginResultProduced) if (fact.plugin, fact.name) == (plugin, name)}
        return orjson.loads(await self.read(blob))

    async def read(self, blob: BlobRef) -> bytes:
        """The bytes as they stand in the object store."""
        return await self.blobs.read(blob.sha256, limit_bytes=64 * 1024 * 1024)

    def outcomes(self) -> dict[str, str]:
        """How each plugin's run ended."""
        return {fact.plugin: fact.outcome for fact in self.said(PluginFinished)}

    async def get(self, path: str, *, subject: str = "ann", roles: str = "") -> httpx.Response:
        """The answer, as the gateway would ask for it."""
        headers = {"X-Malbox-Subject": subject, "X-Malbox-Gateway": SECRET, "X-Malbox-Roles": roles}
        return await self.http.get(f"/api/v1{path}", headers=headers, timeout=10)


def planned(stage: str, *plugins: str) -> dict[str, Any]:
    """A stage as a plan has it."""
    groups = [[{"plugin": plugin, "version": VERSIONS.get(plugin, "1.0.0")}] for plugin in plugins]
    return {"name": stage, "groups": groups}


def guest_assignment(*, hold_s: float = 300.0, endpoint: GuestEndpoint | None = None) -> dict[str, Any]:
    """A leased machine."""
    return {
        "lease": {"lease_id": "lea_" + "ab" * 16, "machine_id": "linux-1", "epoch": 7, "term": 0},
        "endpoint": endpoint or {"scheme": "tcp", "host": "127.0.0.1", "port": 7, "server_identity": "x", "ca_pem": ""},
        "platform": "linux",
        "hard_deadline_at": datetime.now(UTC) + timedelta(seconds=hold_s),
    }


@contextmanager
def open_folder() -> Iterator[Path]:
    """A directory below /tmp that others may read: when root runs the test, the sandbox's processes are nobody's."""
    folder = Path(mkdtemp(prefix="malbox-plugins-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def settings(amqp_url: str, database_url: str, folder: Path, **changes: Any) -> PluginsSettings:
    """Settings of a service of the test's own, on a free port."""
    return PluginsSettings.model_validate(
        {
            "amqp_url": amqp_url,
            "database_url": database_url,
            "blob_dir": folder / "blobs",
            "scratch_dir": folder / "scratch",
            "http_port": free_port(),
            "gateway_secret": SECRET,
            "guest_client_cert_file": folder / "absent.pem",
            "guest_client_key_file": folder / "absent.key",
            **changes,
        }
    )


@asynccontextmanager
async def service(own: PluginsSettings, connector: GuestConnector | None = None) -> AsyncIterator[None]:
    """The service runs in this process; it is stopped, and its end awaited, afterwards."""
    stop = asyncio.Event()

    async def composed(runtime: Runtime) -> Service:
        return await compose(runtime, connector)

    running = asyncio.create_task(serve("plugins", own, composed, migrations=MIGRATIONS, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(running, 60)


@asynccontextmanager
async def process(own: PluginsSettings, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m services.plugins` runs; it is gone afterwards."""
    file = own.scratch_dir.parent / "plugins.toml"
    values = own.model_dump(mode="json").items()
    file.write_text("".join(f"{name} = {orjson.dumps(value).decode()}\n" for name, value in values), encoding="utf-8")
    with (own.scratch_dir.parent / "plugins.log").open("ab") as log:
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.plugins",
            cwd=ROOT,
            env={"MALBOX_CONFIG": str(file), **environment},
            stderr=log,
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await asyncio.wait_for(started.wait(), 10)


@asynccontextmanager
async def connected(to: PluginsSettings) -> AsyncIterator[Bench]:
    """The bench of a service that is starting; it is ready, and everything that it says from now on is kept."""
    connection = await aio_pika.connect_robust(to.amqp_url, timeout=10)
    channel = await connection.channel()
    await channel.declare_exchange("malbox.facts", aio_pika.ExchangeType.TOPIC, durable=True)
    async with httpx.AsyncClient(base_url=f"http://{to.http_host}:{to.http_port}") as http:
        bench = Bench(to, BlobStore(to.blob_dir), channel, http)
        await listen(bench)
        await until_ready(bench)
        yield bench
    await connection.close()


async def until_ready(bench: Bench) -> None:
    """The service says that it is ready. Raises TimeoutError."""
    async with asyncio.timeout(120):
        while True:
            with suppress(httpx.TransportError):
                if (await bench.http.get("/api/v1/health/plugins", timeout=5)).status_code == httpx.codes.OK:
                    return
            await asyncio.sleep(0.05)


async def listen(bench: Bench) -> None:
    """Everything that the service says is kept, each message once."""
    queue = await bench.channel.declare_queue(exclusive=True)
    await queue.bind("malbox.facts", "plugins.#", timeout=10)

    async def keep(message: AbstractIncomingMessage) -> None:
        async with message.process(), bench.news:
            envelope = Envelope.from_json(message.body)
            if envelope.id not in bench.ids:
                bench.ids.append(envelope.id)
                bench.heard.append(unwrap(envelope))
                bench.said_at.append(envelope.time)
            bench.news.notify_all()

    await queue.consume(keep, timeout=10)


Play = Callable[["ScriptedGuest"], Coroutine[Any, Any, None]]


async def until_there(database_url: str, query: str, *arguments: object) -> None:
    """The query finds a row. Raises TimeoutError after a minute."""
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        async with asyncio.timeout(60):
            while not await connection.fetch(query, *arguments):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)
    finally:
        await connection.close(timeout=10)


@dataclass
class ScriptedGuest(GuestConnector, GuestSession):
    """A guest whose record a test writes. It keeps its record like the real agent: a watch may begin anew.

    `is_watched`: something of the record was taken.
    """

    play: Play
    exec_error: str = ""
    collected: Collected = field(default_factory=lambda: Collected((), 0))
    flushed: Flushed = field(default_factory=lambda: Flushed((), 0, 0))
    calls: list[str] = field(default_factory=list)
    called_at: dict[str, float] = field(default_factory=dict)
    endings: dict[str, PluginEnding] = field(default_factory=dict)
    told: list[tuple[str, str, str, dict[str, object]]] = field(default_factory=list)
    argv: tuple[str, ...] = ()
    record: list[GuestEvent] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_watched: asyncio.Event = field(default_factory=asyncio.Event)
    is_alive: bool = True
    beat: asyncio.Task[None] | None = None
    script: asyncio.Task[None] | None = None

    def say(self, event: GuestEvent) -> None:
        """The event is in the record."""
        self.record.append(event)
        self.news.set()

    async def _call(self, name: str) -> None:
        await asyncio.sleep(0)
        self.calls.append(name)
        self.called_at[name] = asyncio.get_running_loop().time()
        if not self.is_alive:
            raise GuestUnreachable("gone")

    @property
    def frames_refused(self) -> int:
        """None."""
        return 0

    async def connect(self, endpoint: GuestEndpoint, lease: LeaseRef, *, timeout_s: float) -> "ScriptedGuest":
        """Itself."""
        assert endpoint.port
        assert lease.epoch == 7
        assert timeout_s > 0
        await self._call("connect")
        return self

    async def set_clock(self) -> None:
        """It shows the time anyway."""
        await self._call("set_clock")

    async def hello(self) -> GuestHello:
        """Who it is."""
        await self._call("hello")
        return GuestHello("1.0.0", "linux", "boot", ("plugins",))

    async def put(self, source: Path, name: str) -> str:
        """Believed, when the host has such a file."""
        await self._call("put")
        assert os.path.exists(source)  # noqa: ASYNC240, PTH110 - a local file of the test
        return f"/work/{name}"

    async def init_plugin(self, name: str, config: dict[str, object]) -> str:
        """Ready."""
        await self._call(f"init {name} {sorted(config)}")
        return VERSIONS.get(name, "1.0.0")

    async def start_plugin(self, name: str, bundle: Path, config: dict[str, object], bounds: PluginLimits) -> None:
        """Ready."""
        assert bounds.timeout_s > 0
        assert os.path.getsize(bundle) > 0  # noqa: ASYNC240, PTH202 - a local file of the service
        await self._call(f"start {name} {sorted(config)}")

    async def tell(self, plugin: str, message_id: str, fact: str, content: dict[str, object]) -> bool:
        """Kept, once."""
        await asyncio.sleep(0)
        if not self.is_alive:
            raise GuestUnreachable("gone")
        if message_id not in {known for _plugin, known, *_ in self.told}:
            self.told.append((plugin, message_id, fact, content))
        return True

    async def end_plugin(self, name: str) -> PluginEnding:
        """As the test says; or completed, with as many pieces as were said."""
        await self._call(f"end {name}")
        pieces = sum(isinstance(event, PluginPiece) and event.plugin == name for event in self.record)
        return self.endings.get(name, PluginEnding("completed", "", pieces, b"", 1))

    async def arm(self) -> None:
        """Armed."""
        await self._call("arm")

    async def launch(
        self,
        argv: tuple[str, ...],
        *,
        environment: dict[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        has_network: bool = False,  # noqa: ARG002 - the port's shape
    ) -> Launched:
        """The script begins."""
        assert (environment, cwd, user) == (None, "", "")
        await self._call("launch")
        self.argv = argv
        self.script = asyncio.create_task(self.play(self))
        return Launched(100, 0, self.exec_error)

    async def watch(self, *, after_position: int = 0) -> AsyncGenerator[GuestEvent, None]:
        """The record, and a heartbeat as long as it lives."""
        del after_position
        seen = 0
        while True:
            if not self.is_alive:
                raise GuestUnreachable("gone")
            while seen < len(self.record):
                yield self.record[seen]
                seen += 1
            if seen:
                self.is_watched.set()
            self.news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.news.wait(), 0.2)
            yield Heartbeat(1)

    async def flush(self) -> Flushed:
        """Sealed; `flushed` and the seal stand in the script's hands."""
        await self._call("flush")
        if self.script is not None:
            self.script.cancel()
        self.say(RecordSealed(10_000))
        return self.flushed

    async def collect(self, into: Path, *, timeout_s: float) -> Collected:
        """What the test put there."""
        assert timeout_s > 0
        await self._call("collect")
        assert into.name
        return self.collected

    async def shutdown_plugin(self, name: str) -> None:
        """Gone."""
        await self._call(f"shutdown {name}")

    async def shutdown(self) -> None:
        """Gone."""
        await self._call("shutdown")

    async def close(self) -> None:
        """Closed."""
        self.calls.append("close")
