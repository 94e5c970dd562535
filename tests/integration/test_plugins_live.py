"""Plugins are added, edited, broken, mended and removed while tasks run, and no task sees anything but its plan."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import aio_pika
import orjson
import pytest

from contracts.envelope import Envelope, Message
from contracts.ids import derived
from contracts.planning import Plan, PlannedRun, PlannedStage
from contracts.plugins import (
    PluginRegistered,
    PluginRejected,
    PluginRemoved,
    PluginResultProduced,
    PluginStageCompleted,
    PluginStarted,
)
from contracts.scheduler import RunStage, TaskCompleted, TaskPlanned
from services.plugins import reconciling
from services.plugins.adapters.watching import WatchedFolders
from tests.integration.plugins_bench import Bench, connected, open_folder, service, settings, until_there
from tests.integration.test_plugins_service import SCRIPT, add_plugin, until

SAYS = "def run(context):\n    context.emit_json('count', {word!r})\n"
SLOW = "import time\ndef run(context):\n    time.sleep(2)\n    context.emit_json('count', {word!r})\n"
GATE = "import time\ndef run(context):\n    time.sleep(3)\n"


@dataclass
class Live:
    """A running service, and the operator's directory of plugins that it watches."""

    bench: Bench
    plugins: Path
    versions: Path

    def write(self, name: str, word: str) -> None:
        """The plugin says that word from now on; it is made when it is not there."""
        if (self.plugins / name).is_dir():
            (self.plugins / name / "plugin.py").write_text(SAYS.format(word=word), encoding="utf-8")
        else:
            add_plugin(self.plugins, name, SAYS.format(word=word))

    async def registered(self, name: str, *, other_than: str = "none") -> PlannedRun:
        """The plugin as it was registered last, once that is of other files than the digest's, as a plan pins it."""

        def found() -> list[PlannedRun]:
            said = [fact.manifest for fact in self.bench.said(PluginRegistered) if fact.manifest.name == name]
            runs = [PlannedRun(plugin=name, version=each.version, digest=each.digest) for each in said[-1:]]
            return [run for run in runs if run.digest != other_than]

        await until(lambda: bool(found()))
        return found()[0]

    async def order(self, *groups: PlannedRun) -> str:
        """A static stage of a task of its own is ordered, each run in a group of its own. The task."""
        task_id = derived("tsk", uuid4().hex)
        blob = await self.bench.blobs.put_bytes(SCRIPT)
        fields = {"task_id": task_id, "attempt": 1, "sample": {"blob": blob, "name": "a.sh"}, "request": {}}
        stage = PlannedStage(name="static", groups=tuple((run,) for run in groups))
        await self.bench.tell(RunStage.model_validate({**fields, "stage": stage}))
        return task_id

    async def word_of(self, task_id: str) -> str:
        """What the task's plugin said, once the stage completed without an error."""
        await until(lambda: any(fact.task_id == task_id for fact in self.bench.said(PluginStageCompleted)))
        [stage] = [fact for fact in self.bench.said(PluginStageCompleted) if fact.task_id == task_id]
        assert stage.errors == ()
        [result] = [fact for fact in self.bench.said(PluginResultProduced) if fact.task_id == task_id]
        return str(orjson.loads(await self.bench.read(result.blob)))

    async def hear_of(self, fact: Message) -> None:
        """The service is told the fact."""
        envelope = Envelope.wrap(fact, message_id=uuid4().hex, source="scheduler", at=datetime.now(UTC))
        exchange = await self.bench.channel.get_exchange("malbox.facts", ensure=False)
        await exchange.publish(aio_pika.Message(envelope.to_json()), fact.routing_key(), timeout=10)

    async def instances(self, name: str) -> list[int]:
        """The numbers of the plugin's instances."""
        listed = (await self.bench.get("/plugins/instances")).json()["items"]
        return [each["id"] for each in listed if each["plugin"] == name]

    async def reason(self, name: str) -> str | None:
        """Why the folder is rejected, as the API says, or None."""
        listed = (await self.bench.get("/plugins")).json()["rejected"]
        return next((entry["reason"] for entry in listed if entry["name"] == name), None)


@asynccontextmanager
async def living(amqp_url: str, database_url: str) -> AsyncIterator[Live]:
    """A service with two plugins of an operator's."""
    with open_folder() as folder:
        add_plugin(folder / "plugins", "gate", GATE)
        add_plugin(folder / "plugins", "speaker", SAYS.format(word="one"))
        own = settings(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with service(own), connected(own) as bench:
            yield Live(bench, folder / "plugins", own.scratch_dir / "versions")


@pytest.fixture
async def live(amqp_url: str, database_url: str) -> AsyncIterator[Live]:
    """The same, watched."""
    async with living(amqp_url, database_url) as running:
        yield running


@pytest.mark.promise("D6", "A1", "P37")
async def test_a_plugin_is_edited_broken_mended_and_removed_while_tasks_run(live: Live) -> None:
    """Each task gets the files that its plan pinned; whoever asks sees what is wrong, until it no longer is."""
    gate, one = await live.registered("gate"), await live.registered("speaker")
    first = await live.order(gate, one)
    await until(lambda: any(fact.task_id == first for fact in live.bench.said(PluginStarted)))

    live.write("speaker", "two")
    two = await live.registered("speaker", other_than=one.digest)
    assert two.version == one.version
    second = await live.order(two)

    manifest = live.plugins / "speaker/plugin.toml"
    whole = manifest.read_text(encoding="utf-8")
    manifest.write_text(whole.replace('kind = "host"', 'kind = "ghost"'), encoding="utf-8")
    [rejected] = await live.bench.hear(PluginRejected)
    assert (rejected.folder, "plugin.toml:5: plugin.kind" in rejected.reason) == ("speaker", True)
    assert [fact.name for fact in await live.bench.hear(PluginRemoved)] == ["speaker"]
    assert await live.reason("speaker") == rejected.reason
    assert (await live.bench.get("/plugins/gate")).json()["state"] == "registered"
    third = await live.order(two)

    manifest.write_text(whole.replace("1.0.0", "1.1.0"), encoding="utf-8")
    mended = await live.registered("speaker", other_than=two.digest)
    assert mended.version == "1.1.0"
    assert await live.reason("speaker") is None

    shutil.rmtree(live.plugins / "speaker")
    assert [fact.name for fact in await live.bench.hear(PluginRemoved, 2)] == ["speaker", "speaker"]
    assert (await live.bench.get("/plugins/speaker")).status_code == 404
    fourth = await live.order(mended)

    words = [await live.word_of(task) for task in (first, second, third, fourth)]
    assert words == ["one", "two", "two", "two"]


@pytest.mark.promise("D6")
async def test_a_plugin_that_is_added_may_be_planned_without_a_restart(live: Live) -> None:
    """A folder that appears, in however many steps, is a plugin once it is whole."""
    live.write("newcomer", "hello")
    assert await live.word_of(await live.order(await live.registered("newcomer"))) == "hello"


@pytest.mark.promise("D6", "D7", "P37")
async def test_a_persistent_plugin_is_drained_and_replaced_by_what_its_folder_became(live: Live) -> None:
    """The run that is in the old one ends well; the next starts from the new files; nothing of the old one is left."""
    persistent = "\n[runtime]\nlifecycle = 'persistent'\n"
    add_plugin(live.plugins, "steady", SLOW.format(word="one"), more=persistent)
    one = await live.registered("steady")
    first = await live.order(one)
    await until(lambda: any(fact.task_id == first for fact in live.bench.said(PluginStarted)))
    before = await live.instances("steady")
    (live.plugins / "steady/plugin.py").write_text(SAYS.format(word="two"), encoding="utf-8")
    two = await live.registered("steady", other_than=one.digest)
    words = [await live.word_of(first), await live.word_of(await live.order(two))]
    assert words == ["one", "two"]
    after = await live.instances("steady")
    assert before
    assert after
    assert not set(before) & set(after)


@pytest.mark.promise("D6")
async def test_what_no_event_told_of_is_found_by_the_interval(
    amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without watches left, or a file system that has none, costs time and nothing else."""

    async def blind(_folders: WatchedFolders) -> None:
        """Sees nothing."""

    monkeypatch.setattr(WatchedFolders, "watch", blind)
    monkeypatch.setattr(reconciling, "INTERVAL_S", 0.3)
    async with living(amqp_url, database_url) as live:
        one = await live.registered("speaker")
        live.write("speaker", "two")
        await live.registered("speaker", other_than=one.digest)


@pytest.mark.promise("D6")
async def test_a_version_is_kept_while_a_plan_pins_it_and_no_longer(
    amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the task lets go of it."""
    monkeypatch.setattr(reconciling, "INTERVAL_S", 0.3)
    monkeypatch.setattr(reconciling, "KEPT_AFTER_S", 0.0)
    async with living(amqp_url, database_url) as live:
        one = await live.registered("speaker")
        task_id = derived("tsk", uuid4().hex)
        await live.hear_of(planned(task_id, one))
        await until_there(database_url, "SELECT FROM plugins.pins WHERE task_id = $1", task_id)
        live.write("speaker", "two")
        two = await live.registered("speaker", other_than=one.digest)
        live.write("speaker", "three")
        await live.registered("speaker", other_than=two.digest)
        await until(lambda: not (live.versions / two.digest).exists())
        assert (live.versions / one.digest).is_dir()
        assert await live.word_of(await live.order(one)) == "one"
        await live.hear_of(TaskCompleted(task_id=task_id, attempts=1, machine="clean"))
        await until(lambda: not (live.versions / one.digest).exists())


def planned(task_id: str, *runs: PlannedRun) -> TaskPlanned:
    """The task's plan is frozen."""
    plan = Plan(stages=(PlannedStage(name="static", groups=(runs,)),))
    return TaskPlanned.model_validate(
        {
            "task_id": task_id,
            "submission_id": derived("sub", task_id),
            "owner": "ann",
            "sample": {"blob": {"sha256": "0" * 64, "size_bytes": 1}, "name": "a"},
            "request": {},
            "plan": plan,
        }
    )
