"""Lifecycles and contexts in the real service, with plugins in the real sandbox."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from contracts.ids import derived
from contracts.plugins import PluginFinished, PluginStageCompleted
from tests.integration.plugins_bench import SECRET, Bench, connected, open_folder, service, settings, until_there
from tests.integration.test_plugins_service import add_plugin

pytestmark = pytest.mark.integration
LOADED = """
import os
from pathlib import Path
number = int.from_bytes(os.urandom(6), "big")
ran = 0
def run(context):
    global ran
    ran += 1
    seen = []
    if context.kept is not None:
        seen = sorted(os.listdir(context.kept))
        (context.kept / str(len(seen))).write_text("was here")
    context.emit_json("count", {"number": number, "ran": ran, "kept": seen})
"""
A_TASK, B_TASK = "tsk_" + "a" * 32, "tsk_" + "b" * 32


@pytest.fixture
async def bench(amqp_url: str, database_url: str) -> AsyncIterator[Bench]:
    """A running service with a plugin of each lifecycle, and one that is broken in a way that only its start shows."""
    with open_folder() as folder:
        for name, more in {
            "ephemeral": "",
            "persistent": '\n[runtime]\nlifecycle = "persistent"\n',
            "scoped": '\n[runtime]\nlifecycle = "scoped"\n\n[scope]\nkey = "task"\n',
        }.items():
            add_plugin(folder / "plugins", name, LOADED, stages='["static", "post"]')
            with (folder / "plugins" / name / "plugin.toml").open("a", encoding="utf-8") as manifest:
                manifest.write(more)
        add_plugin(folder / "plugins", "looper", "import nowhere\ndef run(context): pass\n")
        with (folder / "plugins/looper/plugin.toml").open("a", encoding="utf-8") as manifest:
            manifest.write('\n[runtime]\nlifecycle = "persistent"\n')
        add_plugin(folder / "plugins", "slow", "import time\ndef run(context): time.sleep(600)\n")
        own = settings(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with service(own), connected(own) as bench:
            yield bench


async def instances(bench: Bench, plugin: str) -> list[dict[str, Any]]:
    """What the API shows of the plugin's instances."""
    items = (await bench.get("/plugins/instances")).json()["items"]
    return [item for item in items if item["plugin"] == plugin]


async def counted(bench: Bench, plugin: str, *, task: str, stage: str = "static") -> dict[str, Any]:
    """What the plugin emitted in that stage of that task."""
    bench.heard.clear()
    await bench.order(b"x", plugin, task_id=task, stage=stage)
    await bench.hear(PluginStageCompleted)
    assert bench.outcomes() == {plugin: "completed"}
    found: dict[str, Any] = await bench.json_of(plugin, "count")
    return found


@pytest.mark.promise("D7", "P37")
async def test_each_lifecycle_shares_what_its_manifest_says_and_no_more(bench: Bench) -> None:
    """What a module did as it was loaded tells instances apart; what a run did to it is never seen by another."""
    stages = (("a", "static"), ("a", "post"), ("b", "static"))
    seen = {
        plugin: [await counted(bench, plugin, task=derived("tsk", plugin, task), stage=stage) for task, stage in stages]
        for plugin in ("ephemeral", "persistent", "scoped")
    }
    numbers = {plugin: [one["number"] for one in runs] for plugin, runs in seen.items()}
    assert len(set(numbers["ephemeral"])) == 3
    assert len(set(numbers["persistent"])) == 1
    assert numbers["scoped"][0] == numbers["scoped"][1] != numbers["scoped"][2]
    assert {one["ran"] for runs in seen.values() for one in runs} == {1}
    assert [one["kept"] for one in seen["scoped"]] == [[], ["0"], []]
    assert [one["kept"] for one in seen["persistent"]] == [[], [], []]


@pytest.mark.promise("D5")
async def test_busy_names_the_real_task_and_stage(bench: Bench) -> None:
    """While it runs, to the task's owner; afterwards the one that waits is ready, the one of a single run gone."""
    await until_shown(bench, "persistent", ["ready"])
    bench.task_id = B_TASK
    await bench.order(b"x", "slow", stage="static", owner="ann")
    await until_shown(bench, "slow", ["busy"])
    [busy] = await instances(bench, "slow")
    shown = {key: busy[key] for key in ("state", "task_id", "attempt", "stage", "lifecycle")}
    expected = {"state": "busy", "task_id": B_TASK, "attempt": 1, "stage": "static", "lifecycle": "ephemeral"}
    assert shown == expected
    assert B_TASK not in (await bench.get("/plugins/instances", subject="bob")).text
    await bench.cancel("static")
    await bench.hear(PluginStageCompleted)
    assert await instances(bench, "slow") == []
    [ready] = await instances(bench, "persistent")
    assert (ready["state"], ready["task_id"], ready["stage"]) == ("ready", None, None)


@pytest.mark.promise("D1", "P37")
async def test_a_crash_looper_is_quarantined_and_harms_nobody_else(bench: Bench) -> None:
    """It is shown with its reason; its run fails with it; its neighbours run; an administrator begins anew."""
    await until_shown(bench, "looper", ["quarantined"])
    [given_up] = await instances(bench, "looper")
    assert "No module named 'nowhere'" in given_up["reason"]
    listed = {one["name"]: one["state"] for one in (await bench.get("/plugins")).json()["items"]}
    assert (listed["looper"], listed["persistent"]) == ("quarantined", "registered")
    shown = (await bench.get("/plugins/looper")).json()
    assert (shown["reason"], shown["since"]) == (given_up["reason"], given_up["since"])
    await bench.order(b"x", "looper", "persistent", task_id=A_TASK)
    await bench.hear(PluginStageCompleted)
    assert bench.outcomes() == {"looper": "failed", "persistent": "completed"}
    [failed] = [fact for fact in bench.said(PluginFinished) if fact.plugin == "looper"]
    assert "quarantined" in failed.reason
    assert (await decide(bench, "looper", is_admin=False)).status_code == 403
    assert (await decide(bench, "absent")).json()["code"] == "unknown_instance"
    assert (await decide(bench, "looper")).status_code == 202
    assert await instances(bench, "looper") != [given_up]


@pytest.mark.promise("D1")
async def test_a_quarantine_outlives_the_service(amqp_url: str, database_url: str) -> None:
    """The next one does not start the plugin, and says since when; what an administrator decided outlives it, too."""
    with open_folder() as folder:
        add_plugin(folder / "plugins", "looper", "import nowhere\ndef run(context): pass\n")
        with (folder / "plugins/looper/plugin.toml").open("a", encoding="utf-8") as manifest:
            manifest.write('\n[runtime]\nlifecycle = "persistent"\n')
        own = settings(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with service(own), connected(own) as bench:
            await until_shown(bench, "looper", ["quarantined"])
            await until_there(database_url, "SELECT FROM plugins.quarantined WHERE name = 'looper'")
            before = (await bench.get("/plugins/looper")).json()
        async with service(own), connected(own) as bench:
            assert (await bench.get("/plugins/looper")).json() == before
            assert [one["state"] for one in await instances(bench, "looper")] == ["quarantined"]
            assert (await decide(bench, "looper")).status_code == 202
            assert (await bench.get("/plugins/looper")).json()["state"] == "registered"


async def decide(bench: Bench, plugin: str, *, is_admin: bool = True) -> httpx.Response:
    """Somebody wants fresh instances of it."""
    headers = {"X-Malbox-Subject": "ann", "X-Malbox-Gateway": SECRET, "X-Malbox-Roles": "admin" if is_admin else ""}
    url = f"/api/v1/plugins/instances/{plugin}/replace"
    return await bench.http.post(url, headers=headers, json={"reason": "mended"}, timeout=10)


async def until_shown(bench: Bench, plugin: str, states: list[str]) -> None:
    """The API shows that. Raises TimeoutError."""
    async with asyncio.timeout(60):
        while [one["state"] for one in await instances(bench, plugin)] != states:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
