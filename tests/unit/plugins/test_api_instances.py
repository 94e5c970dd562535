"""What an instance does is for everybody, whom it serves for administrators and for whom it is."""

import asyncio
from typing import Any

import httpx
import pytest

from services.chassis.http import build_app
from services.plugins.api_instances import instances_router
from services.plugins.instances import Instances
from tests.unit.plugins.instances_bench import FakeRunner, occasion, plugin, request, served, until

SECRET = "known to the gateway"
WHOM = ("task_id", "attempt", "stage", "scope")


async def listed(instances: Instances, subject: str, roles: str = "") -> dict[str, dict[str, Any]]:
    """What somebody is told of instances, by plugin."""

    async def ready() -> dict[str, Any]:
        return {"is_ready": True}

    app = build_app(
        service="plugins", version="0", gateway_secret=SECRET, routers=[instances_router(instances)], readiness=ready
    )
    headers = {"X-Malbox-Subject": subject, "X-Malbox-Gateway": SECRET, "X-Malbox-Roles": roles}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://plugins") as client:
        answer = await client.get("/api/v1/plugins/instances", headers=headers)
    assert answer.status_code == httpx.codes.OK
    return {item["plugin"]: item for item in answer.json()["items"]}


@pytest.mark.promise("P39", "D5")
async def test_whom_an_instance_serves_is_for_administrators_and_the_tasks_owner() -> None:
    """Others see that it is busy and since when; neither the task, nor what its scope is of."""
    kinds = [plugin("shared"), plugin("of_task", lifecycle="scoped", key="task")]
    runner = FakeRunner()
    async with served(runner, *kinds) as instances:
        runner.gate.clear()
        async with asyncio.TaskGroup() as group:
            for each in kinds:
                group.create_task(instances.use(each, occasion("a", owner="ann"), request(each)))
            await until(lambda: runner.running == {"shared", "of_task"})
            seen = {who: await listed(instances, who, roles) for who, roles in
                    (("root", "admin"), ("ann", ""), ("bob", ""))}  # fmt: skip
            runner.gate.set()
    for who in ("root", "ann"):
        assert {name: tuple(one[key] for key in WHOM) for name, one in seen[who].items()} == {
            "shared": ("tsk_a", 1, "static", None),
            "of_task": ("tsk_a", 1, "static", "task tsk_a"),
        }
    assert {name: tuple(one[key] for key in WHOM) for name, one in seen["bob"].items()} == {
        "shared": (None, None, None, None),
        "of_task": (None, None, None, "task"),
    }
    assert {one["state"] for one in seen["bob"].values()} == {"busy"}
    assert "tsk_a" not in str(seen["bob"])


@pytest.mark.promise("P39")
@pytest.mark.parametrize(
    ("key", "to_ann", "to_bob"),
    [("owner", "owner ann", "owner"), ("task", "task", "task"), ("sample", "sample", "sample")],
)
async def test_a_scope_that_waits_is_named_to_who_is_known_to_own_it(key: str, to_ann: str, to_bob: str) -> None:
    """The name of an owner is theirs to see; of a task or a sample that nobody is in, only an administrator's."""
    one, runner = plugin(lifecycle="scoped", key=key), FakeRunner()
    async with served(runner) as instances:
        await instances.use(one, occasion("a", sample="5a", owner="ann"), request(one))
        assert (await listed(instances, "ann"))["one"]["scope"] == to_ann
        assert (await listed(instances, "bob"))["one"]["scope"] == to_bob
        full = {"owner": "owner ann", "task": "task tsk_a", "sample": "sample 5a"}[key]
        assert (await listed(instances, "root", "admin"))["one"]["scope"] == full


async def test_a_task_whose_owner_is_not_known_is_an_administrators() -> None:
    """An order that is older than the word of owners gives its task away to nobody."""
    one, runner = plugin(), FakeRunner()
    async with served(runner, one) as instances:
        runner.gate.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(instances.use(one, occasion("a", owner=None), request(one)))
            await until(lambda: runner.running == {"one"})
            assert (await listed(instances, "ann"))["one"]["task_id"] is None
            assert (await listed(instances, "root", "admin"))["one"]["task_id"] == "tsk_a"
            runner.gate.set()
