"""All stages of one plan with plugins of every context: real sandboxes, the real agent, a trace that is the plan."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from contracts.planning import Plan
from contracts.plugins import PluginFinished, PluginResultProduced, PluginStageCompleted, PluginStarted
from contracts.submission import AnalysisRequest
from services.plugins.adapters.folders import BUILTIN_DIR, read_catalogue
from services.scheduler.policy.planning import plan
from tests.integration import plugins_bench
from tests.integration.every_context import MADE, STAGES, TRACER, Ran, Trace, is_exactly
from tests.integration.guest_harness import RunningAgent, running_agent
from tests.integration.plugins_bench import Bench, connected, guest_assignment, open_folder, service, settings

pytestmark = pytest.mark.integration
HEARING_MAX_S = 120.0  # each of its runs takes a second and a half, most of them one after another
SCRIPT = b"#!/bin/sh\nsleep 1\n"
REQUEST = {"plugins": [{"name": name} for name in (TRACER, *MADE)]}


@dataclass
class Stand:
    """A running service, a running agent, and the plan for their plugins."""

    bench: Bench
    agent: RunningAgent
    plan: Plan

    async def play(self) -> None:
        """Every stage of the plan was ordered, one after the other, and ended."""
        for number, stage in enumerate(self.plan.stages, start=1):
            changes = {}
            if stage.name == "guest":
                changes["guest"] = guest_assignment(endpoint=self.agent.endpoint(await self.agent.enrol()))
            await self.bench.order(SCRIPT, name="short.sh", planned=stage, request=REQUEST, **changes)
            completed = await self.bench.hear(PluginStageCompleted, number)
            assert [fact.errors for fact in completed] == [()] * number

    async def trace(self) -> Trace:
        """From the facts and the instants that they bear, the records over HTTP, and the plugins' own results."""
        trace = Trace()
        started: dict[str, float] = {}
        for fact, at in zip(self.bench.heard, self.bench.said_at, strict=True):
            if isinstance(fact, PluginStarted):
                assert fact.run_id not in started, fact
                started[fact.run_id] = at.timestamp()
            elif isinstance(fact, PluginFinished):
                trace.heard.append(Ran(fact.stage, fact.plugin, fact.version, started[fact.run_id], at.timestamp()))
            elif isinstance(fact, PluginResultProduced) and fact.plugin in MADE:
                trace.own_words[fact.plugin] = orjson.loads(await self.bench.read(fact.blob))
        records = (await self.bench.get(f"/plugins/runs/{self.bench.task_id}", roles="admin")).json()["items"]
        trace.recorded = [(one["stage"], one["plugin"], one["version"], one["outcome"]) for one in records]
        return trace


@pytest.fixture
async def stand(amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    """The plan is the scheduler's, made of what the directories hold."""
    monkeypatch.setattr(plugins_bench, "HEARING_MAX_S", HEARING_MAX_S)
    with open_folder() as folder, running_agent(folder) as agent:
        _write(folder / "plugins-of-operator")
        catalogue = read_catalogue((BUILTIN_DIR, folder / "plugins-of-operator"))
        assert catalogue.rejected == ()
        manifests = {name: one.public() for name, one in catalogue.plugins.items()}
        made = plan(AnalysisRequest.model_validate(REQUEST), manifests, platform="linux")
        own = settings(
            amqp_url,
            database_url,
            folder,
            plugin_dirs=[folder / "plugins-of-operator"],
            guest_client_cert_file=folder / "client/client.pem",
            guest_client_key_file=folder / "client/client.key",
        )
        async with service(own), connected(own) as bench:
            yield Stand(bench, agent, made)


@pytest.mark.promise("P36", "D2")
async def test_the_trace_of_all_stages_with_plugins_of_every_context_is_exactly_the_plan(stand: Stand) -> None:
    """Its plugins in their versions, each once, group after group, stage after stage; together only who may be."""
    assert [stage.name for stage in stand.plan.stages] == list(STAGES)
    await stand.play()
    is_exactly(stand.plan, await stand.trace())


def _write(into: Path) -> None:
    into.mkdir()
    into.chmod(0o755)
    for made in MADE.values():
        made.write(into)
