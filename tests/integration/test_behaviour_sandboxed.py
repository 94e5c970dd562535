"""The plugin `behaviour` in the real sandbox, within the limits of its own manifest."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import orjson
import pytest

from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.ports import InputFile, SandboxReport, SandboxRequest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent.parent
TRACE = ROOT / "tests" / "unit" / "guest" / "traces" / "python.strace"
TRACE_MAX_BYTES = 32 * 1024 * 1024


@pytest.fixture(name="bench")
def bench_fixture() -> Iterator[Path]:
    """Below /tmp and open to others, with the plugin's folder: the sandbox's processes are nobody's."""
    root = Path(mkdtemp(prefix="malbox-behaviour-"))
    root.chmod(0o755)
    shutil.copytree(ROOT / "services" / "plugins" / "builtin" / "behaviour", root / "plugin")
    yield root
    shutil.rmtree(root)


async def run_sandboxed(bench: Path, trace: bytes) -> SandboxReport:
    """The plugin ran on a trace."""
    for name, content in (("trace", trace), ("sample", b"x")):
        (bench / name).write_bytes(content)
    (bench / "spool").mkdir()
    return await BubblewrapRunner().run(
        SandboxRequest(
            manifest=load_manifest(bench / "plugin"),
            plugin_dir=bench / "plugin",
            sample=bench / "sample",
            sample_name="sample",
            spool_dir=bench / "spool",
            inputs=(InputFile("syscalls", "syscalls", bench / "trace", "application/octet-stream"),),
        )
    )


async def test_a_recorded_trace_is_read_in_the_sandbox(bench: Path) -> None:
    """The result is the one that a test without a sandbox sees."""
    report = await run_sandboxed(bench, TRACE.read_bytes())
    assert report.outcome == "completed", (report.reason, report.log)
    result = orjson.loads(report.results[0].path.read_bytes())
    assert len(result["processes"]) == 6
    assert any(one["query"] == "evil.example" for one in result["network"])


@pytest.mark.promise("P30", "P38")
async def test_the_largest_trace_is_read_within_the_plugins_limits(bench: Path) -> None:
    """A trace as long as the agent's default limit, of real lines, is done in its time and memory."""
    content = TRACE.read_bytes()
    report = await run_sandboxed(bench, (content * (TRACE_MAX_BYTES // len(content) + 1))[:TRACE_MAX_BYTES])
    assert report.outcome == "completed", (report.reason, report.log)
    result = orjson.loads(report.results[0].path.read_bytes())
    assert result["is_truncated"] is True
    assert result["counts"]["lines"] > 100_000
