"""The guest stage on the real service, over the real agent in a process of its own, and what the post stage sees."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from contracts.plugins import PluginResultProduced, PluginStageCompleted, SampleExited, SampleStarted
from tests.integration.guest_harness import RunningAgent, running_agent
from tests.integration.plugins_bench import Bench, connected, guest_assignment, open_folder, service, settings

pytestmark = pytest.mark.integration
SCRIPT = b"#!/bin/sh\necho hello $1\necho dropped > dropped.txt\nexit 3\n"


@dataclass
class Laboratory:
    """A running service, a running agent, and the lease between them."""

    bench: Bench
    agent: RunningAgent

    async def order(self, sample: bytes, name: str, **request: object) -> PluginStageCompleted:
        """The sample was observed in the guest."""
        endpoint = self.agent.endpoint(await self.agent.enrol())
        guest = guest_assignment(endpoint=endpoint)
        await self.bench.order(sample, "syscalls", stage="guest", name=name, guest=guest, request=request)
        [completed] = await self.bench.hear(PluginStageCompleted)
        return completed


@pytest.fixture
async def laboratory(amqp_url: str, database_url: str) -> AsyncIterator[Laboratory]:
    """Both are real; the connection between them is mutual TLS."""
    with open_folder() as folder, running_agent(folder) as agent:
        own = settings(
            amqp_url,
            database_url,
            folder,
            guest_client_cert_file=folder / "client/client.pem",
            guest_client_key_file=folder / "client/client.key",
        )
        async with service(own), connected(own) as bench:
            yield Laboratory(bench, agent)


@pytest.mark.promise("D3", "C5")
async def test_a_script_is_run_observed_and_understood(laboratory: Laboratory) -> None:
    """Trace, output and the dropped file come from the guest; the behaviour plugin reads the trace in its sandbox."""
    bench = laboratory.bench
    completed = await laboratory.order(SCRIPT, "hello.sh", arguments=["world"], timeout_s=30)
    assert (completed.ended_by, completed.errors) == ("sample_exit", ())
    assert [fact.exit_code for fact in bench.said(SampleExited)] == [3]
    assert bench.said(SampleStarted)[0].argv[0] == "/bin/sh"
    results = {(fact.plugin, fact.name): fact for fact in bench.said(PluginResultProduced)}
    assert await bench.read(results["agent", "stdout"].blob) == b"hello world\n"
    dropped = {(fact.path or "").rpartition("/")[2]: fact for fact in results.values() if fact.path}
    assert await bench.read(dropped["dropped.txt"].blob) == b"dropped\n"
    assert b"execve" in await bench.read(results["syscalls", "syscalls"].blob)
    await bench.order(SCRIPT, "behaviour", stage="post")
    await bench.hear(PluginStageCompleted, 2)
    assert bench.outcomes()["behaviour"] == "completed"
    behaviour = await bench.json_of("behaviour", "behaviour")
    assert any("/bin/sh" in " ".join(process["argv"]) for process in behaviour["processes"])


async def test_a_corrupted_executable_fails_in_the_guest_and_is_reported(laboratory: Laboratory) -> None:
    """It is tried, because only the guest's kernel knows; what it said stands in the errors."""
    completed = await laboratory.order(b"\x7fELF" + b"\xff" * 60, "broken", timeout_s=10)
    assert completed.ended_by == "sample_exit"
    assert any("could not run the sample" in error.reason for error in completed.errors), completed
