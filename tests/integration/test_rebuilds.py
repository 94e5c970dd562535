"""Projections made again by replay: equal to what followed, beside those who read and follow, on an operator's word."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.chassis import projections
from services.chassis.clock import SystemClock
from services.chassis.http import build_app
from services.chassis.migrations import migrate
from services.chassis.operators import projections_router
from services.chassis.parked import Word
from services.chassis.projections import Projection, Projector, Recorded, Row
from services.chassis.rebuild import KIND, Rebuilds, Rebuilt, UnknownProjection, rebuild
from services.chassis.run import no_announcements
from services.chassis.store import Store, StoreUnavailable
from services.chassis.unit import Unit
from services.chassis.work import Worker
from services.machines import main as machines
from services.machines.domain.spec import MachineSpec
from services.machines.projections import FLEET
from services.scheduler import main as scheduler
from services.scheduler.tables import TASKS
from tests.integration.chassis_bench import eventually

pytestmark = pytest.mark.integration
GOLDEN = Path(__file__).parents[1] / "contracts" / "golden_events"
KINDS = {
    "machines": (FLEET, machines.MIGRATIONS, "machine", "registered"),
    "scheduler": (TASKS, scheduler.MIGRATIONS, "task", "submitted"),
}
SPEC = MachineSpec(machine_id="m", host="local", profile="linux", platform="linux", image="linux")
WORD = Word("root", "a column was added")


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Store]:
    """A store of a service that projects, its schema made."""
    opened = await Store.open(database_url, request.param)
    await migrate(opened, KINDS[request.param][1])
    yield opened
    await opened.close()


def seeded(seed: int) -> random.Random:
    """The same chances each time."""
    return random.Random(seed)  # noqa: S311 - chosen to be repeated


async def on_rows(store: Store, sql: str, *arguments: Any, table: str | None = None) -> Any:
    """The answer to a query in which ROWS stands for a table of the projection."""
    return await store.fetch(sql.replace("ROWS", table or KINDS[store.schema][0].table), *arguments)


async def places(store: Store) -> dict[UUID, str]:
    """Where each row lies: a row that was written again lies elsewhere."""
    return {row["stream"]: row["place"] for row in await on_rows(store, "SELECT stream, ctid::text AS place FROM ROWS")}


def states(store: Store) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """The first event of a stream, and every version of every other event that was ever stored, as (topic, state)."""
    _, _, thing, first = KINDS[store.schema]
    beginning: dict[str, Any] = {}
    others = []
    for path in sorted(GOLDEN.glob(f"{thing}.*.json")):
        topic = f"{thing}:{path.name.split('.')[1]}"
        state = json.loads(path.read_text(encoding="utf-8"))
        if "spec" in state:
            state["spec"] = SPEC.model_dump(mode="json")
        if topic == f"{thing}:{first}":
            beginning = state
        else:
            others.append((topic, state))
    assert beginning
    assert len(others) > 10
    return beginning, others


def first_event(store: Store, beginning: dict[str, Any], stream: UUID) -> tuple[str, str]:
    """Topic and state of a stream's first event, which names a thing of its own."""
    _, _, thing, first = KINDS[store.schema]
    content = json.loads(json.dumps(beginning))
    if store.schema == "machines":
        content["spec"] |= {"machine_id": f"m-{stream.hex}"}
    else:
        content["submission"] = {
            "task_id": f"tsk_{stream.hex}",
            "submission_id": "sub_1",
            "owner": "ana",
            "sample": {"name": "a.sh", "blob": {"sha256": "a" * 64}},
            "request": {"profile": "linux"},
        }
    return f"{thing}:{first}", json.dumps(content)


def histories(store: Store, chance: random.Random, streams: int, events: int) -> Iterator[list[tuple[Any, ...]]]:
    """Transactions of a few events each, of all streams mixed: what may come there, and what may not as well."""
    beginning, others = states(store)
    versions: dict[UUID, int] = {}
    batch: list[tuple[Any, ...]] = []
    for _ in range(events):
        if len(versions) < streams and chance.random() < 2 * streams / events:
            stream = UUID(int=chance.getrandbits(128))
            versions[stream] = 1
            topic, state = first_event(store, beginning, stream)
        elif versions:
            stream = chance.choice(list(versions))
            versions[stream] += 1
            topic, content = chance.choice(others)
            state = json.dumps(content)
        else:
            continue
        batch.append((stream, versions[stream], topic, state.encode()))
        if chance.random() < 0.3:
            yield batch
            batch = []
    if batch:
        yield batch


async def store_all(store: Store, batches: Iterator[list[tuple[Any, ...]]]) -> int:
    """Each batch is one transaction of the event store; how many events they were."""
    total = 0
    for batch in batches:
        async with store.transaction() as connection:
            await connection.executemany(
                "INSERT INTO events (stream, version, topic, state) VALUES ($1, $2, $3, $4)", batch
            )
        total += len(batch)
    return total


async def content(store: Store) -> list[dict[str, Any]]:
    """Every projected row."""
    projection = KINDS[store.schema][0]
    rows = []
    for table, key in projection.keys.items():
        found = await on_rows(store, "SELECT * FROM ROWS", table=table)
        rows += sorted((dict(row) for row in found), key=itemgetter(*key.split(", ")))
    return rows


async def follow(store: Store) -> None:
    """The projection has every event."""
    projector = Projector(store, KINDS[store.schema][0])
    while any(await projector.advance()):
        pass


@pytest.mark.promise("P16")
@pytest.mark.parametrize("seed", range(4))
async def test_a_rebuild_equals_what_followed_any_history(
    store: Store, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of every version in any order, followed in batches of any size: replay makes the same rows."""
    chance = seeded(seed)
    projection = KINDS[store.schema][0]
    total = 0
    for _ in range(6):
        monkeypatch.setattr(projections, "BATCH_MAX", chance.randint(1, 40))
        total += await store_all(store, histories(store, chance, streams=8, events=60))
        await follow(store)
    followed = await content(store)
    assert len(followed) > 30
    assert await rebuild(store, projection) == Rebuilt(total, rows_changed=0)
    assert await content(store) == followed


@pytest.mark.promise("P16")
async def test_a_rebuild_mends_what_is_wrong_missing_or_too_much_and_says_how_many(store: Store) -> None:
    """Rows that were right are not touched."""
    projection = KINDS[store.schema][0]
    await store_all(store, histories(store, seeded(7), streams=20, events=200))
    await follow(store)
    right = await content(store)
    streams = [row["stream"] for row in await on_rows(store, "SELECT stream FROM ROWS ORDER BY stream")]
    await on_rows(store, "UPDATE ROWS SET state = 'wrong' WHERE stream = ANY($1)", streams[:3])
    await on_rows(store, "DELETE FROM ROWS WHERE stream = ANY($1)", streams[3:5])
    lay = await places(store)
    assert (await rebuild(store, projection)).rows_changed == 5
    assert await content(store) == right
    lies = await places(store)
    assert [lies[stream] for stream in streams[5:]] == [lay[stream] for stream in streams[5:]]
    await store.fetch("DELETE FROM checkpoints")
    assert (await rebuild(store, projection)).rows_changed == 0
    assert await Projector(store, projection).advance() == (0, False)


@pytest.mark.promise("P16")
async def test_rebuilds_beside_projectors_and_writers_lose_no_event(store: Store) -> None:
    """Two replicas follow, three rebuilds run, events are committed: in the end the rows are those of a replay."""
    projection = KINDS[store.schema][0]
    await store_all(store, histories(store, seeded(1), streams=10, events=100))
    followers = [asyncio.create_task(Projector(store, projection).run()) for _ in range(2)]
    try:
        async with asyncio.TaskGroup() as group:
            for seed in range(2, 5):
                group.create_task(store_all(store, histories(store, seeded(seed), streams=10, events=150)))
                group.create_task(rebuild(store, projection))
    finally:
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
    await follow(store)
    followed = await content(store)
    assert (await rebuild(store, projection)).rows_changed == 0
    assert await content(store) == followed


@pytest.mark.promise("P16")
async def test_readers_see_every_row_while_a_rebuild_runs_and_after_it_died(store: Store) -> None:
    """Nothing is emptied first; a connection cut in the middle leaves the old rows, and the next rebuild succeeds."""
    projection = KINDS[store.schema][0]
    await store_all(store, histories(store, seeded(3), streams=10, events=100))
    await follow(store)
    before = await content(store)
    seen = 0

    async def look(_done: int) -> None:
        nonlocal seen
        seen += 1
        assert await content(store) == before

    async def cut(_done: int) -> None:
        await store.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    await rebuild(store, projection, look)
    assert seen
    with pytest.raises(StoreUnavailable):
        await rebuild(store, projection, cut)
    assert await content(store) == before
    assert (await rebuild(store, projection)).rows_changed == 0

    async def is_nothing_left() -> bool:
        return not await store.fetch("SELECT 1 FROM pg_class WHERE relname LIKE 'rebuilt_%' AND relkind = 'r'")

    await eventually(is_nothing_left)  # the connection that was cut ends by itself


def new_unit(store: Store) -> Unit:
    """An empty unit of the service."""
    clock = SystemClock()
    return Unit(service=store.schema, at=clock.now(), uuid=uuid4, announce=no_announcements)


async def worked(store: Store, rebuilds: Rebuilds, name: str) -> dict[str, Any]:
    """What is shown of the projection once its rebuild is over."""
    worker = Worker(
        service=store.schema,
        store=store,
        clock=SystemClock(),
        announce=no_announcements,
        runners={KIND: rebuilds.runner},
    )
    task = asyncio.create_task(worker.run())
    try:

        async def is_over() -> Any:
            shown = next(each for each in await rebuilds.listed() if each["projection"] == name)
            return shown if shown["rebuild"]["state"] != "running" else None

        return dict(await eventually(is_over))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.promise("P16")
async def test_a_rebuild_is_done_on_an_operators_word_and_recorded(store: Store) -> None:
    """Asked for three times before it is done it is done once; who, why and how far stand with the projection."""
    projection = KINDS[store.schema][0]
    total = await store_all(store, histories(store, seeded(5), streams=10, events=100))
    rebuilds = Rebuilds(store, {projection.name: projection}, lambda: new_unit(store))
    with pytest.raises(UnknownProjection):
        await rebuilds.ask("nothing", WORD)
    for _ in range(3):
        await rebuilds.ask(projection.name, WORD)
    [shown] = await rebuilds.listed()
    assert (shown["events_behind"], shown["rebuild"]["state"]) == (total, "running")
    shown = await worked(store, rebuilds, projection.name)
    last = shown["rebuild"]
    assert (last["state"], last["who"], last["reason"]) == ("done", WORD.who, WORD.why)
    assert (last["events_done"], last["events_total"], shown["events_behind"]) == (total, total, 0)
    assert last["rows_changed"] == len(await content(store)) > 0
    actions = await store.fetch("SELECT who, action, target, reason FROM operator_actions")
    assert [tuple(action) for action in actions] == [(WORD.who, "rebuild", projection.name, WORD.why)]
    await rebuilds.ask(projection.name, WORD)
    assert (await worked(store, rebuilds, projection.name))["rebuild"]["rows_changed"] == 0
    assert len(await store.fetch("SELECT 1 FROM operator_actions")) == 2


@pytest.mark.promise("P16")
async def test_a_rebuild_that_ends_while_it_is_shown_is_never_done_and_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it happens between the two reads of a listing."""
    projection = KINDS[store.schema][0]
    await store_all(store, histories(store, seeded(5), streams=3, events=20))
    rebuilds = Rebuilds(store, {projection.name: projection}, lambda: new_unit(store))
    await rebuilds.ask(projection.name, WORD)
    read, overtaken = store.fetchrow, 0

    async def overtaking(*asked: Any) -> Any:
        nonlocal overtaken
        row = await read(*asked)
        overtaken += 1
        if overtaken == 1:
            assert (await worked(store, rebuilds, projection.name))["rebuild"]["state"] == "done"
        return row

    monkeypatch.setattr(store, "fetchrow", overtaking)
    [shown] = await rebuilds.listed()
    assert overtaken > 1
    assert (shown["rebuild"]["state"], shown["events_behind"]) == ("running", 0)


async def test_a_rebuild_that_cannot_be_done_says_why_and_changes_nothing(store: Store) -> None:
    """A fault in what an event does to a row fails the rebuild at once, with its words; the rows stay."""
    projection = KINDS[store.schema][0]
    await store_all(store, histories(store, seeded(6), streams=5, events=50))
    await follow(store)
    before = await content(store)

    def fails(_row: Row | None, _recorded: Recorded) -> Row | None:
        raise ValueError("no such colour")

    broken = Projection(projection.name, projection.table, fails, projection.history, projection.entry)
    rebuilds = Rebuilds(store, {projection.name: broken}, lambda: new_unit(store))
    await rebuilds.ask(projection.name, WORD)
    shown = await worked(store, rebuilds, projection.name)
    assert (shown["rebuild"]["state"], shown["rebuild"]["error"]) == ("failed", "ValueError: no such colour")
    assert await content(store) == before


@pytest.mark.promise("P39")
async def test_only_an_administrator_lists_and_rebuilds_over_http(store: Store) -> None:
    """With a reason, and of what exists."""
    projection = KINDS[store.schema][0]
    rebuilds = Rebuilds(store, {projection.name: projection}, lambda: new_unit(store))

    async def readiness() -> dict[str, bool]:
        return {"is_ready": True}

    secret = "0123456789abcdef"
    routers = (projections_router(store.schema, rebuilds),)
    app = build_app(service=store.schema, version="1", gateway_secret=secret, routers=routers, readiness=readiness)
    headers = {"x-malbox-subject": "root", "x-malbox-roles": "admin", "x-malbox-gateway": secret}
    base = f"http://malbox/api/v1/projections/{store.schema}"
    reason = {"reason": "r"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base, headers=headers) as api:
        path = f"/{projection.name}/rebuild"
        user = {"x-malbox-roles": "user"}
        assert (await api.get(base, headers=user)).status_code == 403
        assert (await api.post(path, json=reason, headers=user)).status_code == 403
        assert (await api.get(base)).json()["items"][0]["rebuild"] is None
        assert (await api.post(path, json={"reason": " "})).status_code == 422
        unknown = await api.post("/nothing/rebuild", json=reason)
        assert (unknown.status_code, unknown.json()["allowed"]) == (404, [projection.name])
        asked = await api.post(path, json=reason)
        assert (asked.status_code, asked.json()["rebuild"]["state"]) == (202, "running")
