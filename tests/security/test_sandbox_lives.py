"""A sandbox that serves one run after another: none finds anything of another, and none harms another."""

import asyncio
import os
import signal
import time

import pytest

from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.process_tree import _tree
from services.plugins.errors import PluginNotReady, SandboxLost
from tests.security.sandbox_bench import MAIN, Bench, Living, processes_with, said


@pytest.mark.promise("P37")
async def test_a_run_finds_nothing_of_the_one_before(living: Living) -> None:
    """Memory, files, processes and the sample of a run are gone in the next one of the same sandbox."""
    marker = f"left{time.monotonic_ns()}"
    leave = f"""
import malbox.sdk.context
malbox.sdk.context.left = "here"
Path("/scratch/left").write_text("x")
Path("/tmp/deep").mkdir(); Path("/tmp/deep/left").write_text("x")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/usr/bin/sleep", ["{marker}", "600"])
    os._exit(0)
context.emit_json("said", Path("/input/sample").read_text())
"""
    look = """
import malbox.sdk.context
context.emit_json("said", [hasattr(malbox.sdk.context, "left"), os.listdir("/scratch"), os.listdir("/tmp"),
                           sorted(os.listdir("/input")), context.sample.read_text()])
"""
    assert said(await living.run(leave, b"first")) == "first"
    assert processes_with(marker) == []
    assert said(await living.run(look, b"second")) == [False, [], [], ["sample"], "second"]
    assert living.sandbox.is_usable


@pytest.mark.promise("P37")
@pytest.mark.parametrize(
    "command", ["os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(7)", "raise ValueError", "bytearray(10 ** 10)"]
)
async def test_a_crash_harms_its_own_run_only(command: str, living: Living) -> None:
    """The sandbox serves the next run as if nothing had been."""
    crashed = await living.run(command)
    assert (crashed.outcome, crashed.results) == ("crashed", ())
    assert living.sandbox.is_usable
    assert said(await living.run("context.emit_json('said', 1)")) == 1


FORGES = """
import gc
from malbox.sdk import frames
for one in gc.get_objects():
    if isinstance(one, socket.socket):
        one.sendall(frames.encode_json({"frame": "ready", "landlock": 1}) + frames.encode_json(FRAME))
"""


@pytest.mark.promise("P35", "P37")
@pytest.mark.parametrize("status", [None, "0", -1, 2**70, 0x137F, True])
async def test_a_plugin_that_speaks_for_the_sandbox_costs_its_own_run_only(status: object, bench: Bench) -> None:
    """Code that is loaded with the plugin reaches the control socket: what it says there is data too."""
    bench.write("os._exit(3)")
    code = bench.root / "plugin/plugin.py"
    forged = FORGES.replace("FRAME", repr({"frame": "idle", "status": status}))
    code.write_text(code.read_text().replace("\ndef run", f"{forged}\ndef run"))
    report = await BubblewrapRunner().run(bench.request())
    assert (report.outcome, report.reason) == ("crashed", "the plugin's process ended without an outcome")


@pytest.mark.promise("P34", "P37")
@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        ("time.sleep(600)", "timed_out"),
        ("[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]; time.sleep(600)", "timed_out"),
        ("context.emit_json('undeclared', 1)", "crashed"),
        ("Path('/scratch/a').mkdir(); Path('/scratch/a').chmod(0)", "completed"),
    ],
)
async def test_a_run_that_breaks_a_rule_takes_its_sandbox_along(command: str, outcome: str, living: Living) -> None:
    """The last one leaves a directory that cannot be emptied: what is not as before is not used again."""
    assert (await living.run(command)).outcome == outcome
    await asyncio.wait_for(living.sandbox.wait_ended(), 10)
    assert not living.sandbox.is_usable


@pytest.mark.promise("P34")
async def test_processor_time_is_given_to_each_run_anew(living: Living) -> None:
    """What the run before has burnt is not counted, and the limit, deadline times processors and one, stands again."""
    burn = """
import resource
before = time.process_time()
while time.process_time() < before + 0.5: pass
context.emit_json("said", [before < 0.4, *resource.getrlimit(resource.RLIMIT_CPU)])
"""
    for _ in range(2):
        assert said(await living.run(burn)) == [True, 7, 7]


@pytest.mark.promise("P33")
async def test_a_run_reaches_neither_the_first_process_nor_its_socket(living: Living) -> None:
    """Neither signal nor limit; its descriptors are its own four; a signal to a child, the control, arrives."""
    tried = """
refused = []
for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
    try:
        os.kill(os.getppid(), number)
    except PermissionError:
        refused.append(number)
child = os.fork()
if child == 0:
    time.sleep(60)
os.kill(child, signal.SIGKILL)
ended_by = os.WTERMSIG(os.waitpid(child, 0)[1])
fds = []
for fd in range(256):
    try:
        os.fstat(fd)
        fds.append(fd)
    except OSError:
        pass
import resource
try:
    resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (1, 1))
    limited = True
except PermissionError:
    limited = False
context.emit_json("said", [refused, ended_by, len(fds), limited])
"""
    assert said(await living.run(tried)) == [[0, 15, 9, 19], 9, 4, False]
    assert said(await living.run("context.emit_json('said', 1)")) == 1


async def test_the_process_of_a_run_waits_for_it_and_is_no_other_runs(living: Living) -> None:
    """Between two runs it stands beside the first process, alone; its death there is a crash of the next run only."""
    first, waiting = await standing_in(living.sandbox._init.pid)
    assert said(await living.run("context.emit_json('said', 1)")) == 1
    same, another = await standing_in(living.sandbox._init.pid)
    assert same == first
    assert another != waiting
    os.kill(another, signal.SIGKILL)
    assert (await living.run("context.emit_json('said', 1)")).outcome == "crashed"
    assert said(await living.run("context.emit_json('said', 1)")) == 1


async def standing_in(init: int) -> tuple[int, int]:
    """The first process of ours below that init, and its only child."""
    async with asyncio.timeout(10):
        while True:
            below = [pid for pid in _tree(init) if pid != init]
            if len(below) == 2:
                return below[0], below[1]
            await asyncio.sleep(0.01)


@pytest.mark.promise("D1")
async def test_a_plugin_that_cannot_be_loaded_is_not_ready_and_says_why(bench: Bench) -> None:
    """Its start fails with the reason, its run crashes with the same; a plugin that loads is the control."""
    bench.write("pass")
    await (await BubblewrapRunner().start(load_manifest(bench.root / "plugin"), bench.root / "plugin")).close()
    for top, words in (
        ("import nowhere", "No module named 'nowhere'"),
        ("import os; os._exit(9)", "while it was loaded"),
    ):
        code = bench.root / "plugin/plugin.py"
        code.write_text(f"{top}\n{MAIN}    pass\n", encoding="utf-8")
        with pytest.raises(PluginNotReady, match=words):
            await BubblewrapRunner().start(load_manifest(bench.root / "plugin"), bench.root / "plugin")
        report = await BubblewrapRunner().run(bench.request())
        assert report.outcome == "crashed"
        assert words in report.reason


async def test_a_sandbox_that_ends_is_noticed(living: Living) -> None:
    """It answers while it lives; once it was killed from outside it is not usable, and a ping says so."""
    await living.sandbox.ping()
    living.sandbox._outer.process.kill()
    await asyncio.wait_for(living.sandbox.wait_ended(), 10)
    assert not living.sandbox.is_usable
    with pytest.raises(SandboxLost):
        await living.sandbox.ping()
