"""Sandboxes in control groups of the real kernel: limits of all their processes together, and an end of all of them."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.guest_group import hierarchies
from services.plugins.adapters import groups as groups_module
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.groups import PREFIX, Groups, Limits
from services.plugins.errors import SandboxUnavailable
from services.plugins.ports import SandboxReport
from tests.security.bombs import BOMBS
from tests.security.sandbox_bench import Bench, processes_with

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make control groups where none are delegated")
END_TIMEOUT_S = 10.0


@pytest.fixture
async def runner(parents: tuple[Path, ...]) -> BubblewrapRunner:
    """It makes a group for each sandbox."""
    runner = BubblewrapRunner(groups=parents)
    await runner.probe()
    return runner


def groups_in(parents: tuple[Path, ...]) -> list[Path]:
    """The groups that there are."""
    return [group for parent in parents for group in parent.glob(f"{PREFIX}*")]


def test_this_kernel_gives_the_controllers_that_count() -> None:
    """Control of everything below: without one of them these tests would show nothing."""
    assert set(hierarchies()) == {"memory", "pids", "cpu"}


@pytest.mark.promise("P34")
async def test_a_sandbox_is_in_its_group_from_first_to_last(
    parents: tuple[Path, ...], runner: BubblewrapRunner, bench: Bench
) -> None:
    """All of it is in, within its limits; afterwards the group is gone; what limits is said."""
    assert runner.condition["control_groups"] == ("memory", "pids", "cpu")
    assert runner.condition["no_control_group"] == []
    bench.write("time.sleep(600)", timeout_s=30)
    sandbox = await runner.start(bench.request().manifest, bench.root / "plugin")
    try:
        found = groups_in(parents)
        assert len(found) == len(parents)
        members = groups_module.Group(tuple(found)).members()
        assert {sandbox._outer.process.pid, sandbox._init.pid} <= members
        written = {
            path.name: path.read_text(encoding="ascii").strip()
            for one in found
            for name in ("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.cfs_quota_us", "cpu.max")
            for path in one.glob(name)
        }
        assert str((128 + 8 + 16 + groups_module.BESIDE_MIB) * 2**20) in {
            written.get("memory.limit_in_bytes"),
            written.get("memory.max"),
        }
        assert written["pids.max"] == "56"
        assert "100000" in {written.get("cpu.cfs_quota_us"), written.get("cpu.max", "").partition(" ")[0]}
    finally:
        await sandbox.close()
    assert groups_in(parents) == []


@pytest.mark.promise("P34")
async def test_memory_is_bounded_over_all_processes_by_the_kernel(runner: BubblewrapRunner, bench: Bench) -> None:
    """Ten processes with 60 MiB each are over the limit together; one of them, the control, is not."""
    bench.write(
        """
        standing = []
        for _ in range(context.config["many"]):
            hears, tells = os.pipe()
            if os.fork() == 0:
                block = os.urandom(1) * (60 * 1024 * 1024)
                os.write(tells, b"x")
                time.sleep(60)
            os.close(tells)
            standing.append(hears)
        for hears in standing:
            os.read(hears, 1)  # it has its memory, or has ended for it
        context.emit_json("said", 1)
        """
    )
    control = await runner.run(bench.request(config={"many": 1}))
    assert control.outcome == "completed", control.reason
    report = await runner.run(bench.request(config={"many": 10}))
    assert report.outcome == "crashed"
    assert "more than 128 MiB" in report.reason


@pytest.mark.promise("P34")
@pytest.mark.parametrize("kind", sorted(BOMBS))
async def test_a_bomb_is_gone_with_its_group(
    kind: str, parents: tuple[Path, ...], runner: BubblewrapRunner, bench: Bench
) -> None:
    """The group could be removed, which the kernel does only when nobody is left in it."""
    bench.write("pass", timeout_s=BOMBS[kind].timeout_s)
    code = f"import os, signal, sys, threading, time\ndef run(context):\n    {BOMBS[kind].body}\n"
    (bench.root / "plugin/plugin.py").write_text(code, encoding="utf-8")
    report = await runner.run(bench.request())
    assert isinstance(report, SandboxReport)
    assert groups_in(parents) == []


@pytest.mark.promise("P3", "P34")
async def test_what_a_killed_service_left_in_a_group_is_ended_at_the_next_start(parents: tuple[Path, ...]) -> None:
    """A process that lives on in a group of a predecessor is gone, and so is the group."""
    left = [parent / f"{PREFIX}1-0" for parent in parents]
    marker = f"left{time.monotonic_ns()}"
    with orphan(marker) as pid:
        for group in left:
            group.mkdir()
            (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
        assert processes_with(marker)
        await Groups(parents).probe(END_TIMEOUT_S)
        assert groups_in(parents) == []
    assert processes_with(marker) == []


@contextlib.contextmanager
def orphan(marker: str) -> Iterator[int]:
    """A process that nobody waits for until the block ends."""
    process = subprocess.Popen([marker, "600"], executable="/usr/bin/sleep")
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


async def test_without_groups_it_is_said_and_the_other_limits_hold(tmp_path: Path, bench: Bench) -> None:
    """A directory that is none is left out with a word in the log, and the plugin runs all the same."""
    runner = BubblewrapRunner(groups=(tmp_path / "absent",))
    await runner.probe()
    assert runner.condition["control_groups"] == ()
    assert runner.condition["no_control_group"] == ["memory", "pids", "cpu"]
    bench.write("context.emit_json('said', 1)")
    assert (await runner.run(bench.request())).outcome == "completed"


async def test_a_group_that_cannot_be_made_now_refuses_the_run(
    parents: tuple[Path, ...], runner: BubblewrapRunner, bench: Bench
) -> None:
    """What could be limited at the start is never run without its limits later."""
    for directory in parents:
        directory.rmdir()
    bench.write("pass")
    with pytest.raises(SandboxUnavailable, match="no control group can be made"):
        await runner.run(bench.request())
    for directory in parents:
        directory.mkdir()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"),
            {
                "memory.max": str(148 * 2**20),
                "memory.swap.max": "0",
                "memory.oom.group": "1",
                "pids.max": "18",
                "cpu.max": "200000 100000",
            },
        ),
        (
            ("memory.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us"),
            {
                "memory.limit_in_bytes": str(148 * 2**20),
                "cpu.cfs_period_us": "100000",
                "cpu.cfs_quota_us": "200000",
            },
        ),
    ],
)
def test_each_kind_of_group_has_its_own_files(tmp_path: Path, files: tuple[str, ...], expected: dict[str, Any]) -> None:
    """Only files that the kernel shows are written, each with its own form of the limit."""
    for name in files:
        (tmp_path / name).touch()
    groups_module._limit(tmp_path, Limits(memory_mib=100, tasks=10, cpu=2))
    assert {path.name: path.read_text(encoding="ascii") for path in tmp_path.iterdir()} == expected


def test_a_kill_for_memory_is_seen_in_both_kinds(tmp_path: Path) -> None:
    """The counter stands in another file in each; nought is none."""
    group = groups_module.Group((tmp_path,))
    assert not group.was_over()
    (tmp_path / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 0\n", encoding="ascii")
    assert not group.was_over()
    (tmp_path / "memory.events").write_text("low 0\nmax 3\noom 1\noom_kill 1\n", encoding="ascii")
    assert group.was_over()
    (tmp_path / "memory.events").unlink()
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", encoding="ascii")
    assert group.was_over()
