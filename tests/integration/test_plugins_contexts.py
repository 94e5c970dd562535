"""Contexts across concurrent tasks: the trace of the runs shows exactly the plans, whatever the moment of each run."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from contracts.planning import PlannedStage
from contracts.plugins import PluginManifest, PluginStageCompleted
from contracts.submission import AnalysisRequest
from malbox.sdk.manifest import Manifest
from services.plugins import main as plugins_main
from services.plugins.adapters.folders import read_catalogue
from services.plugins.ports import SandboxReport, SandboxRequest, SpooledResult
from services.scheduler.policy.planning import plan
from tests.integration.plugins_bench import Bench, connected, open_folder, service, settings
from tests.integration.test_plugins_service import add_plugin

pytestmark = pytest.mark.integration
CONTEXTS = ("exclusive", "sequential", "parallel", "unrestricted")
PLUGINS = {f"{context[:3]}{number}": context for context in CONTEXTS for number in range(3)}
TASKS = 24
RUNS_AT_ONCE = 3
SEEDS = 3


@dataclass(frozen=True)
class Ran:
    """One run: between which ticks, for which task, and what it saw of the others."""

    task: str
    plugin: str
    began: int
    ended: int
    saw: frozenset[str]


@dataclass
class Recorder:
    """A sandbox that keeps the trace. Each run gives way to others for a random number of turns."""

    rng: Random
    ticks: int = 0
    now: int = 0
    most: int = 0
    trace: list[Ran] = field(default_factory=list)

    @property
    def condition(self) -> dict[str, Any]:
        """Nothing is said of it."""
        return {}

    async def probe(self) -> None:
        """It holds."""

    async def start(self, manifest: Manifest, plugin_dir: Path) -> "Recorder":
        """Itself."""
        del manifest, plugin_dir
        return self

    @property
    def is_usable(self) -> bool:
        """Always."""
        return True

    async def wait_ended(self) -> None:
        """Never."""
        await asyncio.get_running_loop().create_future()

    async def ping(self) -> None:
        """It answers."""

    async def close(self) -> None:
        """Nothing is to be done."""

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """Recorded, with one result."""
        name = request.manifest.plugin.name
        began = self.tick()
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(self.rng.randrange(1, 12)):
            await asyncio.sleep(0.001)
        self.now -= 1
        saw = frozenset(one.plugin for one in request.inputs)
        if name != "identity":
            self.trace.append(Ran(request.sample_name, name, began, self.tick(), saw))
        path = request.spool_dir / "result"
        said = {"package": "generic", "platform": None, "mime": "text/plain"}
        path.write_text(json.dumps(said), encoding="utf-8")
        result = SpooledResult(name, "json", "application/json", path, path.stat().st_size)
        return SandboxReport("completed", "", (result,), b"", 1)

    def tick(self) -> int:
        """The next instant; no two events have the same."""
        self.ticks += 1
        return self.ticks


@dataclass
class Played:
    """A service whose runs are recorded, and what may be planned in it."""

    bench: Bench
    recorder: Recorder
    manifests: dict[str, PluginManifest]


@pytest.fixture(params=range(SEEDS))
async def played(
    request: pytest.FixtureRequest, amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Played]:
    """Twelve plugins, three of each context, some in an order."""
    recorder = Recorder(Random(request.param))  # noqa: S311 - a seed that can be played again
    monkeypatch.setattr(plugins_main, "BubblewrapRunner", lambda **_settings: recorder)
    with open_folder() as folder:
        for name, context in PLUGINS.items():
            add_plugin(folder / "plugins", name, "def run(context): pass\n")
            after = json.dumps(
                recorder.rng.sample([other for other in PLUGINS if other < name], k=min(1, name > "exc1"))
            )
            with (folder / "plugins" / name / "plugin.toml").open("a", encoding="utf-8") as manifest:
                manifest.write(f'\n[runtime]\ncontext = "{context}"\n\n[order]\nafter = {after}\n')
        catalogue = read_catalogue((folder / "plugins",))
        assert catalogue.rejected == ()
        own = settings(
            amqp_url,
            database_url,
            folder,
            plugin_dirs=[folder / "plugins"],
            runs_at_once=RUNS_AT_ONCE,
            stages_at_once=8,
        )
        async with service(own), connected(own) as bench:
            yield Played(bench, recorder, {name: one.public() for name, one in catalogue.plugins.items()})


@pytest.mark.promise("P36", "D2")
async def test_the_trace_of_many_tasks_at_once_shows_exactly_their_plans(played: Played) -> None:
    """Its plugins and no others, group after group, seeing what earlier groups made; together never over the cap."""
    stages = {f"task-{number}": chosen(played) for number in range(TASKS)}
    async with asyncio.TaskGroup() as group:
        for number, (name, stage) in enumerate(stages.items()):
            group.create_task(played.bench.order(b"x", name=name, task_id=f"tsk_{number:032x}", planned=stage))
    await played.bench.hear(PluginStageCompleted, TASKS)
    for name, stage in stages.items():
        follows(stage, [ran for ran in played.recorder.trace if ran.task == name])
    assert played.recorder.most == RUNS_AT_ONCE
    assert any(are_at_once(one, other) for one, other in pairwise(sorted(played.recorder.trace, key=lambda r: r.began)))


def chosen(played: Played) -> PlannedStage:
    """The plan of a task that asks for some of the plugins, in some order."""
    names = played.recorder.rng.sample(sorted(PLUGINS), k=played.recorder.rng.randrange(2, 9))
    request = AnalysisRequest.model_validate({"plugins": [{"name": name} for name in names]})
    stage = plan(request, played.manifests, platform="linux").stage("static")
    assert stage is not None
    return stage


def follows(stage: PlannedStage, trace: list[Ran]) -> None:
    """The trace is the plan's and breaks no context."""
    by_plugin = {ran.plugin: ran for ran in trace}
    assert len(by_plugin) == len(trace)
    groups = [[by_plugin.pop(run.plugin) for run in group] for group in stage.groups]
    assert not by_plugin
    made: set[str] = set()
    for group in groups:
        for ran in group:
            assert ran.saw == made
        made |= {ran.plugin for ran in group}
    for earlier, later in pairwise(groups):
        assert max(ran.ended for ran in earlier) < min(ran.began for ran in later)
    for one in trace:
        for other in trace:
            if one is not other and are_at_once(one, other):
                pair = {PLUGINS[one.plugin], PLUGINS[other.plugin]}
                assert "exclusive" not in pair
                assert "unrestricted" in pair or pair == {"parallel"}


def are_at_once(one: Ran, other: Ran) -> bool:
    """Whether there is an instant at which both run."""
    return one.began < other.ended and other.began < one.ended
