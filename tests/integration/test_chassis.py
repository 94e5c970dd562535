"""The chassis on a real broker and database: once under duplicates, faults retried, work found."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from contracts.envelope import Message
from contracts.intake import SampleStored
from contracts.results import ReportReady
from contracts.scheduler import SealReport
from services.chassis.bus import Consumer
from services.chassis.errors import PermanentError, TransientError
from services.chassis.relay import AGAIN_HEADER
from services.chassis.run import Service
from services.chassis.settings import ServiceSettings
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Unit
from services.chassis.work import Runner, WorkContext, WorkItem
from tests.contracts.examples import BLOB, TASK
from tests.integration.chassis_bench import (
    DEADLINE_S,
    FACTS,
    SEAL,
    STORED,
    eventually,
    fact,
    note,
    publish,
    queue_length,
    rows,
    running,
    settings_of,
    wrapped,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(amqp_url: str, database_url: str, tmp_path: Path) -> ServiceSettings:
    """Of a service named `results`."""
    return settings_of(amqp_url, database_url, tmp_path)


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


@pytest.mark.promise("P15")
async def test_what_comes_again_and_says_so_is_known_before_it_is_handled(settings: ServiceSettings) -> None:
    """A message that the sweep found and that was handled is no error of the store's; one that was not is handled."""
    calls: list[str] = []

    async def counts(what: Message, unit: Unit, store: Store) -> None:
        calls.append(unit.cause.message_id or "")
        await note(what, unit, store)

    async with running(settings, Service(handlers={SampleStored: counts, SealReport: note})) as store:
        for message_id in ("msg_a", "msg_a", "msg_b"):
            body = wrapped(STORED, message_id)
            is_again = bool(calls) or message_id == "msg_b"
            headers = {AGAIN_HEADER: "1"} if is_again else {}
            await publish(settings, body, exchange="malbox.facts", key=STORED.routing_key(), headers=headers)
            await eventually(partial(_has_handled, store, message_id))
        await eventually(lambda: _is_empty(settings))
        assert calls == ["msg_a", "msg_b"]
        assert await rows(store) == ["SampleStored", "SampleStored"]


async def _has_handled(store: Store, message_id: str) -> bool:
    return bool(await store.fetch("SELECT FROM inbox WHERE message_id = $1", message_id))


async def _is_empty(settings: ServiceSettings) -> bool:
    return await queue_length(settings, FACTS) == 0


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


@pytest.mark.promise("P14", "P17")
async def test_a_message_that_cannot_be_put_off_is_not_kept_from_everybody(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker did not confirm that it stands in the delay queue: it is given back, and comes again."""
    tries, republish = 0, Consumer._republish

    async def fails_once(what: Message, unit: Unit, store: Store) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise TransientError("not yet")
        await note(what, unit, store)

    async def unconfirmed(*_arguments: object) -> None:
        monkeypatch.setattr(Consumer, "_republish", republish)
        raise TimeoutError

    monkeypatch.setattr(Consumer, "_republish", unconfirmed)
    async with running(settings, Service(handlers={SampleStored: fails_once, SealReport: note})) as store:
        await fact(settings, "msg_1")
        await eventually(lambda: rows(store))
        assert (tries, Consumer._republish) == (2, republish)


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
