"""Live events of a task on a real PostgreSQL: whoever watches to the end has heard all that was said of it."""

from collections.abc import AsyncIterator
from typing import Any, cast

import orjson
import pytest
from fastapi import Request

from contracts.plugins import PluginStarted
from services.chassis.store import Store
from services.scheduler import sse
from services.scheduler.live import Live
from tests.contracts.examples import EXAMPLES
from tests.integration.scheduler_course import finish, run_until
from tests.integration.scheduler_desk import Desk, furnished

pytestmark = pytest.mark.integration


class Listener:
    """A request of a client that stays."""

    async def is_disconnected(self) -> bool:
        """Never."""
        return False


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    """A scheduler that knows plugins and one machine."""
    async with furnished(database_url) as made:
        yield made


async def say(desk: Desk, task_id: str, count: int) -> None:
    """So many facts more are known of the task."""
    fact = next(one for one in EXAMPLES if isinstance(one, PluginStarted))
    for _ in range(count):
        await desk.hear(fact.model_copy(update={"task_id": task_id}))


async def watched(desk: Desk, task_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Everything that somebody hears who watches the task until it is over."""
    live = Live()
    desk.store.on_commit(live.on_commit)
    changes = sse.task_changes(desk.dispatcher._runtime, live, task_id, cast("Request", Listener()))
    lines = [change.decode().rstrip().splitlines() async for change in changes if change.startswith(b"event: ")]
    return [(name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))) for name, data in lines]


async def known(desk: Desk, task_id: str) -> int:
    """How many facts of the task are stored."""
    return len(await desk.store.fetch("SELECT FROM task_facts WHERE task_id = $1", task_id))


async def test_a_task_with_more_facts_than_are_read_at_once_is_told_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to who comes when it is over: each fact, and then its end."""
    monkeypatch.setattr(sse, "FACTS_MAX", 3)
    task_id = await desk.submit()
    await say(desk, task_id, 7)
    await run_until(desk, task_id, "completed")
    heard = await watched(desk, task_id)
    assert [name for name, _ in heard] == ["fact"] * await known(desk, task_id) + ["task"]
    assert heard[-1][1]["state"] == "completed"


async def test_what_is_said_of_a_task_just_before_its_end_is_heard_by_who_watches(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last fact and the end come between two looks of the one who watches."""
    task_id = await desk.submit()
    await run_until(desk, task_id, "reporting")
    real, is_over = sse._facts, False

    async def overtaken(store: Store, task: str, after: int) -> Any:
        nonlocal is_over
        found = await real(store, task, after)
        if not found and not is_over:
            is_over = True
            await say(desk, task_id, 1)
            await finish(desk, task_id)
        return found

    monkeypatch.setattr(sse, "_facts", overtaken)
    heard = await watched(desk, task_id)
    assert [name for name, _ in heard].count("fact") == await known(desk, task_id)
    assert [content["state"] for name, content in heard if name == "task"] == ["reporting", "completed"]
