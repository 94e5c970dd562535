"""Hostile plugins in the real sandbox, judged from outside, each beside a control that shows what would be seen."""

import asyncio
import http.server
import threading
from pathlib import Path

import orjson
import pytest

from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.errors import SandboxUnavailable
from services.plugins.ports import InputFile
from tests.security.sandbox_bench import MAIN, MANIFEST, Bench


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
@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/passwd", "/proc/1/environ", "/root", "/var", "/srv", "/dev/sda"])
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


@pytest.mark.promise("P35", "P37")
async def test_words_that_nothing_can_store_cost_nothing(bench: Bench) -> None:
    """An honest plugin repeats what a hostile file says: line and reason arrive, without what cannot be kept."""
    report = await bench.run(
        """
        context.log("met", name="a\\0\\ud800")
        raise PluginFailure("no such thing: a\\0b\\ud800c")
        """
    )
    assert (report.outcome, report.reason) == ("failed", "no such thing: ab?c")
    assert b'"event":"met"' in report.log


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
