"""A bench for hostile plugins, one whose sandbox goes on living, a laboratory for the red team, and control groups."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import pytest

from deploy.local.guest_group import hierarchies
from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.groups import Group
from tests.security.red_team import Lab
from tests.security.sandbox_bench import Bench, Living

END_TIMEOUT_S = 10.0


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
    bench.write("exec(context.config['command'], {**globals(), 'context': context})", timeout_s=6)
    sandbox = await BubblewrapRunner().start(load_manifest(bench.root / "plugin"), bench.root / "plugin")
    yield Living(bench, sandbox)
    await sandbox.close()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """One for each attempt, below /tmp and open: the sandbox's processes are nobody's when root runs the test."""
    made = Lab(Path(mkdtemp(prefix="malbox-red-")))
    yield made
    made.close()


@pytest.fixture
async def parents() -> AsyncIterator[tuple[Path, ...]]:
    """A directory of the test's own in each tree that gives its controllers to others; all of it is gone afterwards."""
    name = f"malbox-test-{uuid4().hex[:8]}"
    made = tuple(dict.fromkeys(tree.parent / name for tree in hierarchies().values()))
    for directory in made:
        directory.mkdir()
        with contextlib.suppress(OSError):  # of the second kind only
            (directory / "cgroup.subtree_control").write_text("+memory +pids +cpu", encoding="ascii")
    yield made
    for directory in made:
        await Group((directory,)).remove(END_TIMEOUT_S)
