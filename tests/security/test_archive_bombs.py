"""Archive bombs against the plugins that open archives: in the real sandbox, with the budgets that they ship with.

One sandbox serves all of them, as in production: persistent, in a control group. Each run is judged from outside: what
the kernel counted in the group, what lies on this host's disk, how long it took, and which processes are left.
"""

import functools
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import orjson
import pytest

from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.folders import BUILTIN_DIR
from services.plugins.adapters.groups import Group
from services.plugins.adapters.sandbox import BubblewrapSandbox
from services.plugins.builtin.archives.budget import Budget
from services.plugins.internal.unpack.plugin import ENTRY_MAX_BYTES
from services.plugins.ports import SandboxReport, SandboxRequest
from tests.security.test_control_groups import groups_in
from tests.unit.plugins import containers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make control groups where none are delegated")
MIB = 1024 * 1024
SCALE = containers.Scale(entries=12_000, file_bytes=64 * MIB)
ARCHIVES = BUILTIN_DIR / "archives"
UNPACK = BUILTIN_DIR.parent / "internal" / "unpack"
DOCUMENT_MAX_BYTES = 4 * MIB  # of a run's JSON, which is not counted by the budget
HONEST = {"first.txt": b"one", "second.txt": b"two"}


@functools.cache
def bombs() -> dict[str, tuple[bytes, str]]:
    """Name -> the bomb, and the budget that it is to meet."""
    return {name: (make(SCALE), bound) for name, (make, bound) in containers.BOMBS.items()}


@dataclass
class Yard:
    """A place on this host's disk, and a sandbox whose group and files are looked at from there."""

    root: Path
    folder: Path
    sandbox: BubblewrapSandbox
    group: Group

    async def run(self, content: bytes) -> "Seen":
        """The plugin had that sample, and all of its run but the report is gone."""
        await self.sandbox.ping()  # it answers when the process of the next run is there
        before = self.group.members()
        spool = self.root / "spool"
        spool.mkdir()
        (self.root / "sample").write_bytes(content)
        request = SandboxRequest(load_manifest(self.folder), self.folder, self.root / "sample", "sample", spool)
        began = time.monotonic()
        report = await self.sandbox.run(request)
        took_s = time.monotonic() - began
        disk_bytes = _on_disk(self.root) - len(content)
        documents = [orjson.loads(one.path.read_bytes()) for one in report.results if one.kind == "json"]
        shutil.rmtree(spool)
        (self.root / "sample").unlink()
        return Seen(report, documents, took_s, disk_bytes, self.peak_bytes(), before)

    def peak_bytes(self) -> int:
        """The most memory that the sandbox has had so far, all its processes and its file systems together."""
        names = ("memory.max_usage_in_bytes", "memory.peak")
        [file] = [path for one in self.group.directories for name in names for path in one.glob(name)]
        return int(file.read_text(encoding="ascii"))

    async def is_as_before(self, before: set[int]) -> bool:
        """Of all processes one was replaced: that of the run. What was written in the sandbox is gone."""
        await self.sandbox.ping()
        after = self.group.members()
        inside = Path(f"/proc/{self.sandbox._init.pid}/root")
        left = [path for name in ("scratch", "tmp", "input") for path in (inside / name).iterdir()]
        return (len(before - after), len(after - before), left, _on_disk(self.root)) == (1, 1, [], 0)


@dataclass(frozen=True)
class Seen:
    """One run from outside: the plugin's own words, and what this host measured."""

    report: SandboxReport
    documents: list[dict[str, Any]]
    took_s: float
    disk_bytes: int
    peak_bytes: int
    before: set[int]


@asynccontextmanager
async def yard(folder: Path, parents: tuple[Path, ...]) -> AsyncIterator[Yard]:
    """A sandbox that serves the plugin; afterwards there is none of it, and no group."""
    root = _open_folder()
    runner = BubblewrapRunner(scratch_dir=root, groups=parents)
    try:
        await runner.probe()
        sandbox = await runner.start(load_manifest(folder), folder)
        try:
            yield Yard(root, folder, sandbox, Group(tuple(groups_in(parents))))
        finally:
            await sandbox.close()
        assert groups_in(parents) == []
    finally:
        shutil.rmtree(root)


def _open_folder() -> Path:
    """A new one that the sandbox's processes, which are nobody's, can enter."""
    folder = Path(mkdtemp(prefix="malbox-yard-"))
    folder.chmod(0o755)
    return folder


def _on_disk(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


@pytest.mark.promise("P38")
async def test_thirty_bombs_meet_their_budgets_in_the_sandbox(parents: tuple[Path, ...]) -> None:
    """Each run completes and names the bound; the same sandbox then opens an honest archive as if nothing had been."""
    assert len(bombs()) >= 30
    budget, runtime = Budget(), load_manifest(ARCHIVES).runtime
    async with yard(ARCHIVES, parents) as place:
        for name, (content, bound) in bombs().items():
            seen = await place.run(content)
            assert (seen.report.outcome, seen.report.reason) == ("completed", ""), (name, seen.report.log)
            [said] = seen.documents
            assert bound in {one["budget"] for one in said["exceeded"]}, (name, said)
            files = [one for one in seen.report.results if one.kind == "file"]
            assert len(files) == len(said["children"]) <= budget.children, name
            assert all(one.size_bytes <= budget.file_bytes for one in files), name
            assert seen.disk_bytes <= budget.total_bytes + DOCUMENT_MAX_BYTES, name
            assert 0 < seen.peak_bytes <= runtime.memory_mib * MIB, name
            assert seen.took_s <= runtime.timeout_s, name
            assert await place.is_as_before(seen.before), name
        honest = await place.run(containers.zipped(HONEST))
        assert honest.documents[0]["exceeded"] == []
        assert len(honest.documents[0]["children"]) == len(HONEST)


@pytest.mark.promise("P38")
async def test_thirty_bombs_and_one_more_are_bounded_where_the_sample_is_taken_out(parents: tuple[Path, ...]) -> None:
    """Of one entry at most 256 MiB come out; whatever else is there is refused in words, and the sandbox serves on."""
    runtime = load_manifest(UNPACK).runtime
    large = "zip, larger than an entry may be"
    samples = {name: content for name, (content, _) in bombs().items()}
    samples[large] = containers.zipped({"a": bytes(ENTRY_MAX_BYTES + MIB)})
    async with yard(UNPACK, parents) as place:
        for name, content in samples.items():
            seen = await place.run(content)
            assert seen.report.outcome in ("completed", "failed"), (name, seen.report)
            assert seen.report.outcome == "completed" or seen.report.reason, name
            assert seen.disk_bytes <= SCALE.file_bytes + DOCUMENT_MAX_BYTES, name
            assert 0 < seen.peak_bytes <= (runtime.memory_mib + runtime.scratch_mib) * MIB, name
            assert seen.took_s <= runtime.timeout_s, name
            assert await place.is_as_before(seen.before), name
            assert name != large or f"more than {ENTRY_MAX_BYTES} bytes" in seen.report.reason
        honest = await place.run(containers.zipped({"a": b"one"}))
        assert honest.report.outcome == "completed"
        assert [one.size_bytes for one in honest.report.results if one.name == "entry"] == [3]


@pytest.mark.promise("P38")
async def test_without_its_budgets_a_bomb_runs_into_the_walls(parents: tuple[Path, ...]) -> None:
    """Control: the budgets are what lets the runs above complete; and the walls hold where there are none."""
    folder = _open_folder()
    try:
        _without_budgets(folder)
        async with yard(folder, parents) as place:
            seen = await place.run(bombs()["tar, a hole of a terabyte"][0])
            [said] = seen.documents
            assert said["exceeded"] == []
            assert any("File too large" in problem for problem in said["problems"]), said
            scratch_bytes = load_manifest(folder).runtime.scratch_mib * MIB
            assert seen.peak_bytes > scratch_bytes >= seen.disk_bytes, "what is looked at does move"
            assert await place.is_as_before(seen.before)
    finally:
        shutil.rmtree(folder)


def _without_budgets(folder: Path) -> None:
    """The plugin is in the folder, and nothing of what it unpacks is too much for it."""
    shutil.copytree(ARCHIVES, folder, dirs_exist_ok=True)
    text = (folder / "budget.py").read_text(encoding="utf-8")
    for bound in ("192 * MIB", "60 * MIB", "= 250"):
        assert text.count(bound) == 1
        text = text.replace(bound, "= 2**50" if bound.startswith("=") else "2**50")
    (folder / "budget.py").write_text(text, encoding="utf-8")
