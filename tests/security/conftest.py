"""A bench for hostile plugins, one of them whose sandbox goes on living, and a laboratory for the red team."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from tests.security.red_team import Lab
from tests.security.sandbox_bench import Bench, Living


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Below /tmp and open to others, because the sandbox's processes are nobody's when root runs the test."""
    root = Path(mkdtemp(prefix="malbox-bench-"))
    root.chmod(0o755)
    yield Bench(root)
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()


@pytest.fixture
async def living(bench: Bench) -> AsyncIterator[Living]:
    """It executes whatever its configuration says."""
    bench.write("exec(context.config['command'], {**globals(), 'context': context})", timeout_s=3)
    sandbox = await BubblewrapRunner().start(load_manifest(bench.root / "plugin"), bench.root / "plugin")
    yield Living(bench, sandbox)
    await sandbox.close()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """One for each attempt, below /tmp and open: the sandbox's processes are nobody's when root runs the test."""
    made = Lab(Path(mkdtemp(prefix="malbox-red-")))
    yield made
    made.close()
