"""The results service as a process of its own: killed, and asked for a lot at once."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contracts.limits import ARTIFACT_MAX_BYTES
from contracts.plugins import PluginResultProduced
from contracts.results import ArtifactStored, ReportReady
from services.results.settings import ResultsSettings
from tests.integration.results_bench import SECRET, YARA, Bench, connected, settings

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
DOWNLOADS = 4
ROUNDS = 2
GROWTH_MAX_BYTES = ARTIFACT_MAX_BYTES


@asynccontextmanager
async def process(own: ResultsSettings, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m services.results` runs; it is gone afterwards."""
    file = folder / "results.toml"
    file.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in own.model_dump(mode="json").items()))
    with (folder / "results.log").open("ab") as log:
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.results", cwd=ROOT, env={"MALBOX_CONFIG": str(file)}, stderr=log
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await asyncio.wait_for(started.wait(), 10)


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def resident_bytes(pid: int) -> int:
    """How much memory the process has ever held."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) * 1024


@pytest.mark.promise("P3", "P15")
async def test_a_service_that_is_killed_while_a_report_waits_seals_it_after_its_return(
    database_url: str, amqp_url: str, tmp_path: Path
) -> None:
    """The order to seal is in the store, not in the process; what comes while it is away is in the queue."""
    own = settings(amqp_url, database_url, tmp_path)
    async with process(own, tmp_path) as first, connected(own) as bench:
        fact = await _waiting_order(bench)
        first.kill()
        await asyncio.wait_for(first.wait(), 10)
        await bench.tell(fact)
        async with process(own, tmp_path) as second:
            [ready] = await bench.hear(ReportReady)
            assert (ready.verdict, ready.missing_results) == ("malicious", ())
            assert (await bench.get(f"/tasks/{bench.task_id}/report")).json()["score"] == ready.score
            second.terminate()
            assert await asyncio.wait_for(second.wait(), 20) == 0


async def _waiting_order(bench: Bench) -> PluginResultProduced:
    """A result that the service has not heard of, named by an order that it has recorded."""
    fact = bench.result("yara", await bench.blobs.put_bytes(YARA))
    await bench.submit()
    await bench.seal(fact)
    for _ in range(200):
        if (await bench.get(f"/tasks/{bench.task_id}/report")).json()["code"] == "report_not_ready":
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    assert bench.said(ReportReady) == []
    return fact


@pytest.mark.promise("E1", "G7")
async def test_many_large_downloads_at_once_leave_memory_flat(database_url: str, amqp_url: str, tmp_path: Path) -> None:
    """Four artifacts of the greatest size at once take less than one of them has, however much is sent."""
    own = settings(amqp_url, database_url, tmp_path)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1024 * 1024) * (ARTIFACT_MAX_BYTES // (1024 * 1024)))
    async with process(own, tmp_path) as service, connected(own) as bench:
        await bench.submit()
        fact = bench.result("syscalls", await bench.blobs.put_file(path), kind="file")
        await bench.tell(fact)
        await bench.hear(ArtifactStored)
        await _download(bench, fact.result_id)
        before = resident_bytes(service.pid)
        for _ in range(ROUNDS):
            async with asyncio.TaskGroup() as group:
                downloads = [group.create_task(_download(bench, fact.result_id)) for _ in range(DOWNLOADS)]
            assert [download.result() for download in downloads] == [ARTIFACT_MAX_BYTES] * DOWNLOADS
        assert resident_bytes(service.pid) - before < GROWTH_MAX_BYTES


async def _download(bench: Bench, result_id: str) -> int:
    """How many bytes came."""
    headers = {"X-Malbox-Subject": "ann", "X-Malbox-Gateway": SECRET}
    size = 0
    async with bench.http.stream("GET", f"/api/v1/artifacts/{result_id}", headers=headers, timeout=60) as answer:
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
    return size
