"""Messages that nobody can handle: parked one by one, seen by operators, replayed once, dropped on record."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import httpx
import pytest

from contracts.envelope import Message
from contracts.intake import SampleStored
from contracts.scheduler import SealReport
from deploy.local.installation import Installation
from deploy.local.secrets import BROKER_ADMIN
from deploy.local.settings import toml
from services.chassis import broker_setup
from services.chassis.errors import PermanentError
from services.chassis.http import build_app
from services.chassis.migrations import migrate
from services.chassis.operators import dead_router
from services.chassis.parked import AlreadyDecided, Dead, ParkedMessages, Word, identity
from services.chassis.relay import Relay
from services.chassis.run import Service
from services.chassis.settings import ServiceSettings
from services.chassis.store import Store
from services.chassis.suspects import DEATHS_MAX, DELIVERIES_TRUSTED
from services.chassis.topology import DELIVERY_LIMIT, Handler, Topology
from services.chassis.unit import Unit
from tests.integration.chassis_bench import (
    DEAD,
    DEADLINE_S,
    FACTS,
    NAME,
    SEEN,
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
from tests.integration.deadly_service import EXIT_STATUS, POISON
from tests.servers import installation

pytestmark = pytest.mark.integration
ADMIN = {"x-malbox-subject": "root", "x-malbox-roles": "admin", "x-malbox-gateway": "0123456789abcdef"}
WORD = Word("root", "the handler was mended")


@pytest.fixture
def settings(amqp_url: str, database_url: str, tmp_path: Path) -> ServiceSettings:
    """Of a service named `results`."""
    return settings_of(amqp_url, database_url, tmp_path)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """The service's store without the service."""
    opened = await Store.open(database_url, NAME)
    await migrate(opened, ())
    yield opened
    await opened.close()


@pytest.fixture
async def api(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """The routes for operators over that store, as an administrator reaches them."""

    async def readiness() -> dict[str, bool]:
        return {"is_ready": True}

    routers = (dead_router(NAME, ParkedMessages(store, lambda: None)),)
    app = build_app(service=NAME, version="1", gateway_secret="0123456789abcdef", routers=routers, readiness=readiness)
    base = "http://malbox/api/v1/dead"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base, headers=ADMIN) as client:
        yield client


async def parked(store: Store, count: int) -> list[dict[str, object]]:
    """What waits for a decision, once it is that many."""

    async def are_there() -> bool:
        return len(await store.fetch("SELECT 1 FROM parked WHERE state = 'parked'")) == count

    await eventually(are_there)
    return await ParkedMessages(store, lambda: None).page("parked", 200, None)


@pytest.mark.promise("P14")
async def test_poison_is_parked_with_its_reason_and_drops_no_innocent_message(settings: ServiceSettings) -> None:
    """Garbage, an unknown type and a payload that does not fit are an operator's to see; what follows is handled."""
    unknown = json.loads(wrapped(STORED, "msg_x")) | {"type": "malbox.no.such.v1"}
    misfit = json.loads(wrapped(STORED, "msg_y")) | {"data": {"owner": 3}}
    async with running(settings, Service(handlers={SampleStored: note, SealReport: note})) as store:
        for body in (b"garbage", json.dumps(unknown).encode(), json.dumps(misfit).encode()):
            await publish(settings, body, exchange="malbox.facts", key=STORED.routing_key())
        await fact(settings, "msg_good")
        await eventually(lambda: rows(store))
        reasons = sorted(str(each["reason"]) for each in await parked(store, 3))
        assert reasons[0].startswith("malbox.sample.stored.v1 does not fit")
        assert reasons[1].startswith("not a CloudEvents envelope")
        assert reasons[2] == "unknown message type 'malbox.no.such.v1'"

        async def all_taken() -> bool:
            return await queue_length(settings, DEAD) == 0

        await eventually(all_taken)
        assert await rows(store) == ["SampleStored"]


@pytest.mark.promise("P14")
async def test_a_replay_has_one_effect_however_often_it_is_said(settings: ServiceSettings) -> None:
    """A message that is still refused comes back as the same message, counted; once mended it has its effect once."""
    calls = 0
    is_mended = False

    async def refuses(what: Message, unit: Unit, store: Store) -> None:
        nonlocal calls
        calls += 1
        if not is_mended:
            raise PermanentError("not mended")
        await note(what, unit, store)

    async with running(settings, Service(handlers={SampleStored: refuses, SealReport: note})) as store:
        await fact(settings, "msg_1")
        [first] = await parked(store, 1)
        assert (first["times"], first["reason"]) == (1, "not mended")
        messages = ParkedMessages(store, lambda: None)
        await messages.replay(str(first["id"]), WORD)
        [again] = await parked(store, 1)
        assert (again["id"], again["times"], calls) == (first["id"], 2, 2)
        is_mended = True
        await asyncio.gather(*(messages.replay(str(first["id"]), WORD) for _ in range(5)))
        await eventually(lambda: rows(store))
        shown = await messages.show(str(first["id"]))
        assert (shown["state"], shown["times"], shown["is_handled"]) == ("replayed", 2, True)
        recorded = [(each["who"], each["action"], each["reason"]) for each in shown["actions"]]
        assert set(recorded) == {("root", "replayed", "the handler was mended")}
        await messages.replay(str(first["id"]), WORD)
        assert len((await messages.show(str(first["id"])))["actions"]) == len(recorded)
        assert (await rows(store), calls) == (["SampleStored"], 3)


@pytest.mark.promise("P14", "P17")
async def test_a_replay_that_the_broker_lost_is_said_again(database_url: str, tmp_path: Path) -> None:
    """Its data is wiped between the replay and its consumption: the record says so, and a second replay is handled."""
    is_mended = False

    async def refuses(what: Message, unit: Unit, store: Store) -> None:
        if not is_mended:
            raise PermanentError("not mended")
        await note(what, unit, store)

    service = Service(handlers={SampleStored: refuses, SealReport: note})
    with installation() as here:
        await asyncio.to_thread(here.rabbitmq().start)
        settings = settings_of(here.rabbitmq().url(BROKER_ADMIN), database_url, tmp_path)
        async with running(settings, service) as store:
            await publish(settings, wrapped(STORED, "msg_1"), exchange=f"{NAME}.own", key=FACTS)
            [dead] = await parked(store, 1)
        message = str(dead["id"])
        await _replayed_to_nobody(settings, message)
        await asyncio.to_thread(_wipe, here)
        is_mended = True
        async with running(settings, service) as store:
            messages = ParkedMessages(store, lambda: None)
            [lost] = await messages.page("replayed", 10, None)
            assert (lost["id"], lost["is_handled"], await rows(store)) == (message, False, [])
            await messages.replay(message, WORD)
            await eventually(lambda: rows(store))
            shown = await messages.show(message)
            assert (shown["is_handled"], [each["action"] for each in shown["actions"]]) == (True, ["replayed"] * 2)
            await messages.replay(message, WORD)
            assert len((await messages.show(message))["actions"]) == 2
            assert await rows(store) == ["SampleStored"]


@pytest.mark.promise("P14")
async def test_what_the_inbox_may_have_forgotten_is_not_replayed_again(store: Store) -> None:
    """After its days nobody knows whether the message was handled: a repeated replay is refused, and says so."""
    messages = ParkedMessages(store, lambda: None)
    body = wrapped(STORED, "msg_1")
    await messages.keep(Dead(FACTS, body, "no", 1))
    message = identity(NAME, FACTS, body)
    await messages.replay(message, WORD)
    await messages.replay(message, WORD)
    assert len((await messages.show(message))["actions"]) == 1, "its copy is still on its way"
    await store.fetch("DELETE FROM outbox")
    await store.fetch("UPDATE parked SET decided_at = now() - interval '13 days 23 hours'")
    await messages.replay(message, WORD)
    await store.fetch("DELETE FROM outbox")
    await store.fetch("UPDATE parked SET decided_at = now() - interval '14 days 1 hour'")
    with pytest.raises(AlreadyDecided, match="nobody knows"):
        await messages.replay(message, WORD)
    assert (await messages.show(message))["is_handled"] is None


async def _replayed_to_nobody(settings: ServiceSettings, message: str) -> None:
    """The copy stands in its queue: the relay sent it, and no service runs."""
    store = await Store.open(settings.database_url, NAME)
    relay = Relay(store, settings.amqp_url)
    relaying = asyncio.create_task(relay.run())
    try:
        await ParkedMessages(store, relay.wake).replay(message, WORD)

        async def stands_there() -> bool:
            return await queue_length(settings, FACTS) == 1 and not await store.fetch("SELECT 1 FROM outbox")

        await eventually(stands_there)
    finally:
        relaying.cancel()
        await asyncio.gather(relaying, return_exceptions=True)
        await store.close()


def _wipe(here: Installation) -> None:
    """RabbitMQ lost everything, and runs again from its definitions."""
    broker = here.rabbitmq()
    broker.stop()
    shutil.rmtree(here.state.rabbitmq / "mnesia")
    broker.start()


@pytest.mark.promise("P14")
async def test_what_the_broker_gave_up_is_parked_as_well(settings: ServiceSettings) -> None:
    """The delivery limit sends a message to the dead-letter queue without our knowing: it is seen and replayed too."""
    handlers: dict[type[Message], Handler] = {SampleStored: note, SealReport: note}
    await broker_setup.prepare(settings.amqp_url, Topology(NAME, "local", handlers))
    await fact(settings, "msg_1")
    connection = await aio_pika.connect(settings.amqp_url)
    async with connection:
        queue = await (await connection.channel()).get_queue(FACTS, ensure=False)
        for _ in range(DELIVERY_LIMIT + 1):
            message = await queue.get(timeout=DEADLINE_S)
            await message.nack(requeue=True)
    async with running(settings, Service(handlers=handlers)) as store:
        [given_up] = await parked(store, 1)
        assert str(given_up["reason"]).startswith("the broker gave it up")
        assert given_up["type"] == "malbox.sample.stored.v1"
        await ParkedMessages(store, lambda: None).replay(str(given_up["id"]), WORD)
        await eventually(lambda: rows(store))


@pytest.mark.promise("P14")
async def test_a_message_that_kills_its_process_is_parked_alone(settings: ServiceSettings, tmp_path: Path) -> None:
    """Those that were being handled beside it, whenever the process died, all have their effect, once."""
    await broker_setup.prepare(settings.amqp_url, Topology(NAME, "local", {SampleStored: note, SealReport: note}))
    for number in range(12):
        innocent = wrapped(STORED.model_copy(update={"owner": "alice"}), f"msg_{number}")
        deadly = wrapped(STORED.model_copy(update={"owner": POISON}), "msg_poison")
        await publish(settings, deadly if number == 3 else innocent, exchange="malbox.facts", key=STORED.routing_key())
    file = tmp_path / "results.toml"
    file.write_text(toml(settings.model_dump(mode="json")))
    store = await Store.open(settings.database_url, NAME)
    await migrate(store, (SEEN,))
    deaths = 0
    process = await started(file)
    try:
        async with asyncio.timeout(3 * DEADLINE_S):
            while not await store.fetch("SELECT 1 FROM parked"):
                try:
                    await asyncio.wait_for(process.wait(), 0.1)
                except TimeoutError:
                    continue
                assert process.returncode == EXIT_STATUS
                deaths += 1
                process = await started(file)

        async def are_all_seen() -> bool:
            return len(await rows(store)) == 11

        async def are_none_suspected() -> bool:
            return not await store.fetch("SELECT 1 FROM suspects")

        await eventually(are_all_seen)
        [guilty] = await parked(store, 1)
        assert "process died" in str(guilty["reason"])
        assert POISON in (await ParkedMessages(store, lambda: None).show(str(guilty["id"])))["body"]
        assert deaths == DELIVERIES_TRUSTED + 1 + DEATHS_MAX
        await eventually(are_none_suspected)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await store.close()


async def started(settings_file: Path) -> asyncio.subprocess.Process:
    """The deadly service runs."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.deadly_service",
        env=os.environ | {"MALBOX_CONFIG": str(settings_file)},
        cwd=Path(__file__).parents[2],
        stderr=asyncio.subprocess.DEVNULL,
    )


async def test_a_message_that_is_delivered_twice_is_parked_once_and_a_decision_stands(store: Store) -> None:
    """A copy that the broker sends again undoes neither a drop nor a replay; only a later parking counts."""
    messages = ParkedMessages(store, lambda: None)
    dead = Dead(FACTS, b"garbage\x00", "r\x00eason", 1)
    await messages.keep(dead)
    await messages.keep(dead)
    [only] = await messages.page(None, 10, None)
    assert (only["times"], only["reason"], only["type"]) == (1, "reason", "")
    await messages.drop(only["id"], WORD)
    await messages.keep(dead)
    [still] = await messages.page(None, 10, None)
    assert (still["state"], still["decided_by"], still["decided_why"]) == ("dropped", "root", WORD.why)
    await messages.keep(Dead(FACTS, b"garbage\x00", "again", 2))
    assert (await messages.waiting(), len(await messages.page(None, 10, None))) == (1, 1)


async def test_operators_list_show_and_decide_over_http(api: httpx.AsyncClient, store: Store) -> None:
    """Pages follow one another; a decision takes a reason, is recorded with who and why, and is not turned round."""
    messages = ParkedMessages(store, lambda: None)
    for number in range(5):
        await messages.keep(Dead(FACTS, wrapped(STORED, f"msg_{number}"), "no", 1))
    pages: list[list[str]] = []
    after = None
    while not pages or after:
        page = (await api.get(f"/{NAME}", params={"limit": 2, **({"after": after} if after else {})})).json()
        pages.append([each["id"] for each in page["items"]])
        after = page["next"]
    assert [len(page) for page in pages] == [2, 2, 1]
    known = [each for page in pages for each in page]
    assert len(set(known)) == 5
    one, other = known[:2]
    for body in ({}, {"reason": ""}, {"reason": "  "}, {"reason": "a\x00b"}, {"reason": "a" * 1001}):
        assert (await api.post(f"/{NAME}/{one}/drop", json=body)).status_code == 422, body
    dropped = await api.post(f"/{NAME}/{one}/drop", json={"reason": "  obsolete "})
    assert (dropped.status_code, dropped.json()["state"]) == (202, "dropped")
    assert [(each["who"], each["reason"]) for each in dropped.json()["actions"]] == [("root", "obsolete")]
    again = await api.post(f"/{NAME}/{one}/drop", json={"reason": "again"})
    assert len(again.json()["actions"]) == 1
    assert (await api.post(f"/{NAME}/{one}/replay", json={"reason": "no"})).json()["code"] == "already_decided"
    assert (await api.post(f"/{NAME}/{other}/replay", json={"reason": "yes"})).json()["state"] == "replayed"
    assert (await api.post(f"/{NAME}/{other}/drop", json={"reason": "no"})).status_code == 409
    assert len((await api.get(f"/{NAME}", params={"state": "parked"})).json()["items"]) == 3
    assert (await api.get(f"/{NAME}", params={"state": "gone"})).status_code == 422
    shown = (await api.get(f"/{NAME}/{other}")).json()
    assert json.loads(shown["body"])["type"] == "malbox.sample.stored.v1"
    missing = identity(NAME, FACTS, b"never")
    assert (await api.get(f"/{NAME}/{missing}")).json()["code"] == "unknown_message"
    assert (await api.post(f"/{NAME}/{missing}/drop", json={"reason": "x"})).status_code == 404


@pytest.mark.promise("P39")
async def test_only_an_administrator_sees_or_decides(api: httpx.AsyncClient, store: Store) -> None:
    """Anybody else is told so, and nothing changes; the same requests by an administrator pass."""
    await ParkedMessages(store, lambda: None).keep(Dead(FACTS, b"garbage", "no", 1))
    message = identity(NAME, FACTS, b"garbage")
    asked = (("GET", ""), ("GET", f"/{message}"), ("POST", f"/{message}/replay"), ("POST", f"/{message}/drop"))
    for method, path in asked:
        for headers, status in (({"x-malbox-roles": "user"}, 403), ({"x-malbox-gateway": "forged"}, 401)):
            answer = await api.request(method, f"/{NAME}{path}", json={"reason": "r"}, headers=headers)
            assert answer.status_code == status, path
    assert (await api.get(f"/{NAME}/{message}")).json()["state"] == "parked"
    assert (await api.post(f"/{NAME}/{message}/drop", json={"reason": "r"})).status_code == 202
