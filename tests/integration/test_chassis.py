"""The chassis on a real broker and database: once under duplicates, poison parked, faults retried, work found."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from contracts.envelope import Envelope, Message
from contracts.intake import SampleStored
from contracts.results import ReportReady
from contracts.scheduler import SealReport
from services.chassis.bus import REASON_HEADER
from services.chassis.clock import SystemClock
from services.chassis.errors import PermanentError, TransientError
from services.chassis.run import Runtime, Service, serve
from services.chassis.settings import ServiceSettings
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from tests.contracts.examples import BLOB, EXAMPLES, TASK

pytestmark = pytest.mark.integration
DEADLINE_S = 20.0
STORED = next(one for one in EXAMPLES if isinstance(one, SampleStored))
SEAL = next(one for one in EXAMPLES if isinstance(one, SealReport))


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    """The first true answer, asked again for at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not (answer := await check()):  # noqa: ASYNC110 - it watches another process
            await asyncio.sleep(0.02)
    return answer


@pytest.fixture
def settings(amqp_url: str, database_url: str, tmp_path: Path) -> ServiceSettings:
    """Of a service named `results`."""
    return ServiceSettings(
        amqp_url=amqp_url,
        database_url=database_url,
        blob_dir=tmp_path / "blobs",
        scratch_dir=tmp_path,
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
    migration = "CREATE TABLE seen (n serial, what text NOT NULL)"
    task = asyncio.create_task(serve("results", settings, compose, migrations=(migration,), stop=stop))
    try:

        async def is_up() -> bool:
            if task.done():
                task.result()
            queues = await dead_queue(settings, ensure_only=True)
            return bool(opened) and queues is not None

        await eventually(is_up)
        yield opened[0]
    finally:
        stop.set()
        await task


async def dead_queue(
    settings: ServiceSettings, *, ensure_only: bool = False
) -> list[aio_pika.abc.AbstractIncomingMessage] | None:
    """Every message parked by the service, or None while its queues are not declared."""
    connection = await aio_pika.connect(settings.amqp_url)
    async with connection:
        channel = await connection.channel()
        try:
            queue = await channel.declare_queue("results.facts.dead", passive=True)
            await channel.declare_queue("results.commands.dead", passive=True)  # the last that is made
        except aio_pika.exceptions.ChannelClosed:
            return None
        parked: list[aio_pika.abc.AbstractIncomingMessage] = []
        while not ensure_only and (message := await queue.get(fail=False)) is not None:
            parked.append(message)
        return parked


async def publish(settings: ServiceSettings, body: bytes, *, exchange: str, key: str) -> None:
    """The bytes are on the exchange, confirmed."""
    connection = await aio_pika.connect(settings.amqp_url)
    async with connection:
        channel = await connection.channel()
        target = await channel.get_exchange(exchange, ensure=False)
        await target.publish(aio_pika.Message(body), key)


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


@pytest.mark.promise("P15")
async def test_a_message_that_comes_three_times_has_its_effect_once(settings: ServiceSettings) -> None:
    """The inbox makes at-least-once into once; a later message proves that the queue went on."""
    async with running(settings, Service(handlers={SampleStored: note, SealReport: note})) as store:
        for message_id in ("msg_a", "msg_a", "msg_a", "msg_b"):
            await fact(settings, message_id)

        async def both_handled() -> bool:
            return len(await store.fetch("SELECT 1 FROM inbox")) == 2

        await eventually(both_handled)
        assert await rows(store) == ["SampleStored", "SampleStored"]


@pytest.mark.promise("P14")
async def test_poison_is_parked_with_its_reason_and_drops_no_innocent_message(settings: ServiceSettings) -> None:
    """Garbage, an unknown type and a payload that does not fit are parked; what follows them is handled."""
    unknown = json.loads(wrapped(STORED, "msg_x")) | {"type": "malbox.no.such.v1"}
    misfit = json.loads(wrapped(STORED, "msg_y")) | {"data": {"owner": 3}}
    async with running(settings, Service(handlers={SampleStored: note, SealReport: note})) as store:
        for body in (b"garbage", json.dumps(unknown).encode(), json.dumps(misfit).encode()):
            await publish(settings, body, exchange="malbox.facts", key=STORED.routing_key())
        await fact(settings, "msg_good")
        await eventually(lambda: rows(store))
        parked: list[aio_pika.abc.AbstractIncomingMessage] = []

        async def all_parked() -> bool:
            parked.extend(await dead_queue(settings) or [])
            return len(parked) == 3

        await eventually(all_parked)
        reasons = sorted(str(message.headers[REASON_HEADER]) for message in parked)
        assert reasons[0].startswith("malbox.sample.stored.v1 does not fit")
        assert reasons[1].startswith("not a CloudEvents envelope")
        assert reasons[2] == "unknown message type 'malbox.no.such.v1'"


async def test_a_transient_fault_is_retried_and_a_permanent_one_is_parked(settings: ServiceSettings) -> None:
    """Each kind of error decides redelivery."""
    tries = 0

    async def fails_twice(what: Message, unit: Unit, store: Store) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise TransientError("not yet")
        await note(what, unit, store)

    async def refuses(_what: Message, _unit: Unit, _store: Store) -> None:
        raise PermanentError("never")

    async with running(settings, Service(handlers={SampleStored: fails_twice, SealReport: refuses})) as store:
        await fact(settings, "msg_1")
        await eventually(lambda: rows(store))
        assert tries == 3


@pytest.mark.promise("P12")
async def test_what_a_unit_says_reaches_the_next_consumer_and_leaves_the_outbox_empty(
    settings: ServiceSettings,
) -> None:
    """A command is handled, a fact said, the service hears its own fact."""

    async def answer(command: SealReport, unit: Unit, _store: Store) -> None:
        unit.say(ReportReady(task_id=command.task_id, verdict="benign", score=0, report=BLOB))

    async with running(settings, Service(handlers={SealReport: answer, ReportReady: note})) as store:
        await publish(settings, wrapped(SEAL, "msg_1"), exchange="malbox.commands", key="results")
        await eventually(lambda: rows(store))

        async def nothing_left() -> bool:
            return not await store.fetch("SELECT 1 FROM outbox")

        await eventually(nothing_left)
        assert await rows(store) == ["ReportReady"]


async def test_work_is_done_and_failed_work_is_done_again(settings: ServiceSettings) -> None:
    """A handler enqueues; a runner that fails once finishes on its second attempt, in one commit with its outcome."""
    attempts: list[int] = []

    async def run(item: WorkItem, context: WorkContext) -> None:
        attempts.append(item.attempt)
        if item.attempt == 1:
            raise TransientError("try me again")

        async def decide(unit: Unit) -> None:
            unit.execute("INSERT INTO seen (what) VALUES ($1)", item.payload["task_id"])

        await context.commit(decide, finish=True)

    async def enqueue(_what: Message, unit: Unit, _store: Store) -> None:
        unit.enqueue("seal", "one", {"task_id": TASK})
        unit.enqueue("seal", "one", {"task_id": "the same key is the same work"})

    service = Service(handlers={SampleStored: enqueue, SealReport: note}, runners=(Runner("seal", run),))
    async with running(settings, service) as store:
        await fact(settings, "msg_1")
        await eventually(lambda: rows(store))
        assert await rows(store) == [TASK]
        assert attempts == [1, 2]
        assert await store.fetch("SELECT 1 FROM work") == []


@pytest.mark.promise("P3")
async def test_work_of_a_killed_process_is_found_at_once_by_the_next(settings: ServiceSettings) -> None:
    """A claim ends with the database connection that made it, not after a time-out."""
    started, never = asyncio.Event(), asyncio.Event()

    async def hang(_item: WorkItem, _context: WorkContext) -> None:
        started.set()
        await never.wait()

    async def finish(item: WorkItem, context: WorkContext) -> None:
        async def decide(unit: Unit) -> None:
            unit.execute("INSERT INTO seen (what) VALUES ($1)", f"attempt {item.attempt}")

        await context.commit(decide, finish=True)

    async def enqueue(_what: Message, unit: Unit, _store: Store) -> None:
        unit.enqueue("seal", "one", {})

    handlers: dict[type[Message], Handler] = {SampleStored: enqueue, SealReport: note}
    async with running(settings, Service(handlers=handlers, runners=(Runner("seal", hang),))):
        await fact(settings, "msg_1")
        await asyncio.wait_for(started.wait(), DEADLINE_S)
    async with running(settings, Service(handlers=handlers, runners=(Runner("seal", finish),))) as store:
        await eventually(lambda: rows(store))
        assert await rows(store) == ["attempt 2"]
