"""Hostile plugins in the real sandbox, judged from outside, each beside a control that shows what would be seen."""

import asyncio
import http.server
import os
import signal
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import orjson
import pytest

from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.process_tree import _tree
from services.plugins.adapters.sandbox import BubblewrapSandbox
from services.plugins.errors import PluginNotReady, SandboxLost, SandboxUnavailable
from services.plugins.ports import InputFile, SandboxReport, SandboxRequest

MANIFEST = """\
[plugin]
name = "hostile"
version = "1.0.0"
description = "Tries to get out."
kind = "host"

[runtime]
timeout_s = {timeout_s}
memory_mib = 128
scratch_mib = 8

[applies]
stages = ["static"]

[results.said]
kind = "json"
title = "Said"

[results.file]
kind = "file"
title = "Files"
is_many = true
"""
MAIN = """\
import ctypes, json, os, signal, socket, subprocess, sys, time
from pathlib import Path
from malbox.sdk import Context, PluginFailure, PluginSkipped

def run(context):
"""


@dataclass
class Bench:
    """A place for hostile plugins: readable by the sandbox's user, gone after the test."""

    root: Path

    async def run(self, body: str, *, timeout_s: int = 20, inputs: tuple[InputFile, ...] = ()) -> SandboxReport:
        """The plugin whose `run` has this body was run on a five-byte sample."""
        self.write(body, timeout_s=timeout_s)
        return await BubblewrapRunner().run(self.request(inputs=inputs))

    def write(self, body: str, *, timeout_s: int = 20) -> None:
        """The plugin has this body, and there is a sample."""
        folder = self.root / "plugin"
        folder.mkdir(exist_ok=True)
        (folder / "plugin.toml").write_text(MANIFEST.format(timeout_s=timeout_s), encoding="utf-8")
        (folder / "plugin.py").write_text(MAIN + textwrap.indent(textwrap.dedent(body), "    "), encoding="utf-8")
        (self.root / "sample").write_bytes(b"hello")

    def request(self, *, inputs: tuple[InputFile, ...] = (), config: dict[str, Any] | None = None) -> SandboxRequest:
        """A run of it, with a spool of its own."""
        spool = self.root / f"spool-{time.monotonic_ns()}"
        spool.mkdir()
        return SandboxRequest(
            manifest=load_manifest(self.root / "plugin"),
            plugin_dir=self.root / "plugin",
            sample=self.root / "sample",
            sample_name="sample",
            spool_dir=spool,
            inputs=inputs,
            config=config or {},
        )

    async def said(self, body: str) -> object:
        """What the plugin emitted as `said`."""
        report = await self.run(body)
        assert report.outcome == "completed", (report.reason, report.log)
        return orjson.loads(report.results[0].path.read_bytes())


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Below /tmp and open to others, because the sandbox's processes are nobody's when root runs the test."""
    root = Path(mkdtemp(prefix="malbox-bench-"))
    root.chmod(0o755)
    yield Bench(root)
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()


def processes_with(marker: str) -> list[int]:
    """Processes of this host whose command line holds the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def open_descriptors() -> int:
    """How many file descriptors this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_the_probe_passes_here() -> None:
    """Control of everything below: the walls stand on this machine."""
    await BubblewrapRunner().probe()


@pytest.mark.promise("P33")
async def test_a_sandbox_without_a_wall_is_refused(tmp_path: Path) -> None:
    """A probe that finds a wall missing keeps the service from starting, and says which."""
    folder = tmp_path / "probe"
    folder.mkdir()
    (folder / "plugin.toml").write_text(MANIFEST.format(timeout_s=10), encoding="utf-8")
    (folder / "plugin.py").write_text(MAIN + "    raise PluginFailure('missing: a wall')\n", encoding="utf-8")
    for path in (folder, tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match="missing: a wall"):
        await BubblewrapRunner(probe_dir=folder).probe()


async def test_an_honest_plugin_reads_its_sample_and_inputs_and_emits(bench: Bench) -> None:
    """Control: what a plugin may do works, and what it emits arrives whole."""
    earlier = bench.root / "earlier.json"
    earlier.write_text('{"a": 1}', encoding="utf-8")
    report = await bench.run(
        """
        (context.scratch / "big").write_bytes(b"x" * 3_000_000)
        context.log("worked", size=3)
        context.emit_json("said", {"sample": context.sample.read_text(), "earlier": context.inputs[0].read_json()})
        context.emit_file("file/big", context.scratch / "big")
        """,
        inputs=(InputFile("first", "earlier", earlier, "application/json"),),
    )
    assert (report.outcome, report.reason) == ("completed", "")
    assert orjson.loads(report.results[0].path.read_bytes()) == {"sample": "hello", "earlier": {"a": 1}}
    assert report.results[1].path.read_bytes() == b"x" * 3_000_000
    assert b'"event":"worked"' in report.log


@pytest.mark.promise("P33")
@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/etc/passwd", "/proc/1/environ", "/root", "/var", "/work", "/dev/sda"]
)
async def test_the_hosts_files_are_not_there(path: str, bench: Bench) -> None:
    """The path does not even exist inside; the control path of the same call does."""
    said = await bench.said(f"context.emit_json('said', [os.path.lexists({path!r}), os.path.lexists('/usr/bin')])")
    assert said == [False, True]


@pytest.mark.promise("P33")
async def test_the_hosts_environment_does_not_travel(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in the service's environment stays there; a child without the sandbox would have it."""
    monkeypatch.setenv("MALBOX_SECRET", "swordfish")
    child = await asyncio.create_subprocess_exec("/usr/bin/env", stdout=asyncio.subprocess.PIPE)
    assert b"swordfish" in (await child.communicate())[0]
    said = await bench.said("context.emit_json('said', dict(os.environ))")
    assert isinstance(said, dict)
    assert set(said) <= {"PWD", "LC_CTYPE"}


@pytest.mark.promise("P33")
async def test_the_network_is_out_of_reach(bench: Bench) -> None:
    """A server on this host's loopback sees the control's connection and not the plugin's."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.server_port)
        writer.write(b"GET /control HTTP/1.0\r\n\r\n")
        await reader.read()
        writer.close()
        report = await bench.run(
            f"""
            connection = socket.create_connection(("127.0.0.1", {server.server_port}), 3)
            connection.sendall(b"GET /plugin HTTP/1.0\\r\\n\\r\\n")
            """
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert seen == ["/control"]
    assert report.outcome == "crashed"
    assert "PermissionError" in report.reason


@pytest.mark.promise("P33")
@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (101, (0, 0, 0, 0)),  # ptrace(PTRACE_TRACEME)
        (272, (0x10000000,)),  # unshare(CLONE_NEWUSER)
        (165, (0, 0, 0, 0, 0)),  # mount
        (250, (0, 0, 0)),  # keyctl
        (321, (0, 0, 0)),  # bpf
        (425, (1, 0)),  # io_uring_setup
        (298, (0, 0, -1, -1, 0)),  # perf_event_open
        (323, (0,)),  # userfaultfd
        (313, (0, 0, 0)),  # finit_module
        (246, (0, 0, 0, 0)),  # kexec_load
        (41, (2, 1, 0)),  # socket(AF_INET)
        (41, (16, 3, 0)),  # socket(AF_NETLINK)
        (41, (17, 3, 0)),  # socket(AF_PACKET)
        (56, (0x10000000 | 17, 0, 0, 0, 0)),  # clone(CLONE_NEWUSER)
        (203, (0, 8, 0)),  # sched_setaffinity
        (319, (0, 0)),  # memfd_create
    ],
)
async def test_the_filter_refuses_the_call(number: int, arguments: tuple[int, ...], bench: Bench) -> None:
    """EPERM (1) from the filter; the control, getpid by the same road, works. Numbers are those of x86-64."""
    said = await bench.said(
        f"""
        libc = ctypes.CDLL(None, use_errno=True)
        outcome = libc.syscall({number}, *{arguments!r})
        context.emit_json("said", [outcome, ctypes.get_errno(), libc.syscall(39) == os.getpid()])
        """
    )
    assert said == [-1, 1, True]


@pytest.mark.promise("P33")
async def test_nothing_is_written_outside_scratch(bench: Bench) -> None:
    """Root, code, sample and devices are read-only; scratch, the control, is not. The host sees nothing changed."""
    said = await bench.said(
        """
        outcome = {}
        for path in ("/x", "/usr/x", "/venv/x", "/app/malbox/x", "/plugin/x", "/input/x", "/input/sample", "/dev/x",
                     "/scratch/x"):
            try:
                Path(path).write_text("was here")
                outcome[path] = True
            except OSError:
                outcome[path] = False
        context.emit_json("said", outcome)
        """
    )
    assert isinstance(said, dict)
    assert [path for path, was_written in said.items() if was_written] == ["/scratch/x"]
    assert (bench.root / "sample").read_bytes() == b"hello"
    assert not (bench.root / "plugin/x").exists()


@pytest.mark.promise("P34")
async def test_scratch_has_a_quota(bench: Bench) -> None:
    """8 MiB were given; writing goes on until there, and no further, in however many files."""
    said = await bench.said(
        """
        written = 0
        try:
            for number in range(40):
                with open(f"/scratch/{number}", "wb") as stream:
                    written += stream.write(bytes(1024 * 1024))
        except OSError:
            pass
        context.emit_json("said", written // (1024 * 1024))
        """
    )
    assert isinstance(said, int)
    assert 5 <= said <= 8


@pytest.mark.promise("P34")
async def test_a_fork_bomb_meets_a_limit_and_leaves_no_process(bench: Bench) -> None:
    """Forking fails at some small number; afterwards no process with the bomb's mark exists on the host."""
    marker = f"bomb{time.monotonic_ns()}"
    report = await bench.run(
        f"""
        children = 0
        try:
            while children < 1000:
                if os.fork() == 0:
                    os.execv("/usr/bin/sleep", ["{marker}", "600"])
                children += 1
        except OSError:
            pass
        context.emit_json("said", children)
        """
    )
    assert report.outcome == "completed", report.reason
    children = orjson.loads(report.results[0].path.read_bytes())
    assert 1 <= children < 48
    assert processes_with(marker) == []


@pytest.mark.promise("P34")
async def test_memory_is_bounded_in_one_process(bench: Bench) -> None:
    """128 MiB were given: 32 can be had, 256 cannot."""
    control = await bench.run("block = bytearray(32 * 1024 * 1024); context.emit_json('said', len(block))")
    report = await bench.run("block = bytearray(256 * 1024 * 1024); context.emit_json('said', len(block))")
    assert control.outcome == "completed"
    assert (report.outcome, report.results) == ("crashed", ())
    assert "memory" in report.reason


@pytest.mark.promise("P34")
async def test_memory_is_bounded_over_all_processes(bench: Bench) -> None:
    """Ten processes with 60 MiB each are over the limit together, though none is alone."""
    report = await bench.run(
        """
        for _ in range(10):
            if os.fork() == 0:
                block = bytearray(os.urandom(1)) * (60 * 1024 * 1024)
                time.sleep(60)
        time.sleep(30)
        """,
        timeout_s=25,
    )
    assert report.outcome == "crashed"
    assert "more than 128 MiB" in report.reason


@pytest.mark.promise("P34")
@pytest.mark.parametrize("stream", ["sys.stdout", "sys.stderr"])
async def test_endless_words_end_the_run(stream: str, bench: Bench) -> None:
    """The log keeps its first 64 KiB; the flood ends the plugin long before its deadline."""
    report = await bench.run(f"while True: {stream}.write('x' * 65536)", timeout_s=60)
    assert report.outcome == "crashed"
    assert "output" in report.reason
    assert len(report.log) == 64 * 1024
    assert report.duration_ms < 30_000


@pytest.mark.promise("P35")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("context.emit_json('undeclared', 1)", "not declared"),
        ("context.emit_bytes('said', b'x')", "not declared"),
        ("context.emitter.result('said', 'json', 'application/json', b'{nonsense')", "not JSON"),
        ("context.emitter.result('said', 'json', 'application/json', b'[' * 200_000)", "not JSON"),
        ("context.emitter.result('file/../../x', 'file', 'a/b', b'x')", "name is not one"),
        ("context.emitter.result('file/x', 'file', 'a/b\\r\\nX: y', b'x')", "media type"),
        ("[context.emit_json('said', 1) for _ in range(2)]", "came twice"),
        ("[context.emitter.result(f'file/{n}', 'file', 'a/b', b'') for n in range(65)]", "more than 64 results"),
        ("context.emitter._stream.write(b'Q' * 100); context.emitter._stream.flush()", "unknown kind"),
        ("context.emitter._stream.write(b'J\\xff\\xff\\xff\\xff'); context.emitter._stream.flush()", "limit"),
        ("context.emitter._stream.write(b'B\\x00\\x00\\x00\\x01x'); context.emitter._stream.flush()", "announced"),
        ("context.emitter.outcome('completed', ''); context.emit_json('said', 1)", "after the outcome"),
        ("context.emitter.outcome('splendid', '')", "an outcome that is none"),
    ],
)
async def test_output_that_is_not_what_it_should_be_is_refused(body: str, words: str, bench: Bench) -> None:
    """Every way to write something else than declared results ends the run as crashed, with the reason."""
    report = await bench.run(body)
    assert report.outcome == "crashed"
    assert words in report.reason
    assert all(result.path.stat().st_size == result.size_bytes for result in report.results)


@pytest.mark.promise("P34")
async def test_a_plugin_that_ignores_signals_ends_at_its_deadline(bench: Bench) -> None:
    """Every catchable signal ignored, a child in a session of its own: both are gone at the deadline."""
    marker = f"stubborn{time.monotonic_ns()}"
    started = time.monotonic()
    report = await bench.run(
        f"""
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        if os.fork() == 0:
            os.setsid()
            os.execv("/usr/bin/python3", ["{marker}", "-c", "import time; time.sleep(600)"])
        while True:
            time.sleep(1)
        """,
        timeout_s=2,
    )
    assert report.outcome == "timed_out"
    assert 2 <= time.monotonic() - started < 8
    assert processes_with(marker) == []


@pytest.mark.promise("P34")
async def test_a_cancelled_run_leaves_no_process(bench: Bench) -> None:
    """The mark is seen while the plugin runs (control), and is gone once the cancelled call has returned."""
    marker = f"cancelled{time.monotonic_ns()}"
    body = f"""os.execv("/usr/bin/python3", ["{marker}", "-c", "import time; time.sleep(600)"])"""
    running = asyncio.create_task(bench.run(body))
    for _ in range(100):
        await asyncio.sleep(0.1)
        if processes_with(marker):
            break
    assert processes_with(marker)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_with(marker) == []


@pytest.mark.promise("P37")
@pytest.mark.parametrize(
    ("body", "outcome", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "without an outcome"),
        ("os._exit(0)", "crashed", "without an outcome"),
        ("raise ValueError('odd')", "crashed", "ValueError: odd"),
        ("raise PluginFailure('not my kind')", "failed", "not my kind"),
        ("raise PluginSkipped('nothing to do')", "skipped", "nothing to do"),
    ],
)
async def test_an_ending_has_its_outcome(body: str, outcome: str, words: str, bench: Bench) -> None:
    """An exit without a word is a crash, never a success."""
    report = await bench.run(body)
    assert report.outcome == outcome
    assert words in report.reason


async def test_no_file_descriptor_is_left_behind(bench: Bench) -> None:
    """Runs of every outcome later, the service holds as many descriptors as before."""
    await bench.run("pass")
    before = open_descriptors()
    for body in ("pass", "os._exit(1)", "time.sleep(9)"):
        await bench.run(body, timeout_s=1)
    assert open_descriptors() == before


@dataclass
class Living:
    """A hostile plugin whose sandbox serves one run after another."""

    bench: Bench
    sandbox: BubblewrapSandbox

    async def run(self, command: str, sample: bytes = b"hello") -> SandboxReport:
        """The plugin did what `command` says, in Python, to that sample."""
        (self.bench.root / "sample").unlink(missing_ok=True)
        (self.bench.root / "sample").write_bytes(sample)
        return await self.sandbox.run(self.bench.request(config={"command": command}))


@pytest.fixture
async def living(bench: Bench) -> AsyncIterator[Living]:
    """It executes whatever its configuration says."""
    bench.write("exec(context.config['command'], {**globals(), 'context': context})", timeout_s=3)
    sandbox = await BubblewrapRunner().start(load_manifest(bench.root / "plugin"), bench.root / "plugin")
    yield Living(bench, sandbox)
    await sandbox.close()


def said(report: SandboxReport) -> object:
    """What a run that completed emitted."""
    assert report.outcome == "completed", (report.reason, report.log)
    return orjson.loads(report.results[0].path.read_bytes())


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
        assert said(await living.run(burn)) == [True, 4, 4]


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
