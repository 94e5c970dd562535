"""Host plugins in a bubblewrap sandbox: namespaces of their own, a read-only root, no network, limits, and an end.

The plugin's process sees /usr, the virtual environment as /venv, the SDK as /app/malbox, its own folder as /plugin, the
sample and earlier results read-only below /input, and one bounded /scratch. No /proc, no /etc, no device but null and
urandom. Everything it emits comes through one pipe and is checked by `Output`.
"""

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import malbox
from contracts.plugins import RunOutcome
from malbox.sdk import frames
from malbox.sdk.manifest import ManifestError, load_manifest
from services.plugins.adapters.output import Output
from services.plugins.adapters.pipe_reader import PipeReader
from services.plugins.adapters.process_tree import Init, read_init
from services.plugins.adapters.seccomp import build_filter
from services.plugins.errors import OutputRefused, SandboxUnavailable
from services.plugins.ports import SandboxReport, SandboxRequest

BWRAP = "/usr/bin/bwrap"
NOBODY = 65534
MIB = 1024 * 1024
TASKS_MAX = 48  # processes and threads together; the libraries that parse start a few threads
OPEN_FILES_MAX = 256
ADDRESS_SPACE_MAX_BYTES = 64 * 1024 * MIB  # YARA-X reserves what it never touches; RLIMIT_DATA is the real limit
TMP_MIB = 16
MEMORY_POLL_S = 0.2
START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0
PROBE_DIR = Path(__file__).parent.parent / "internal" / "probe"

NAMESPACES = (
    "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--disable-userns", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
    "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox",
)  # fmt: skip


@dataclass(frozen=True)
class _Pipes:
    """Our ends and the child's ends of the two extra pipes."""

    output_read: int
    output_write: int
    info_read: int
    info_write: int


class BubblewrapRunner:
    """Implements SandboxedRunner. Started by root, the sandbox's processes belong to nobody, never to root."""

    def __init__(self, *, probe_dir: Path = PROBE_DIR) -> None:
        self._probe_dir = probe_dir
        self._turn = itertools.count()

    async def probe(self) -> None:
        """A harmless plugin tried to break out of every wall and met it. Raises SandboxUnavailable."""
        try:
            manifest = load_manifest(self._probe_dir)
        except ManifestError as error:
            raise SandboxUnavailable(str(error)) from error
        with TemporaryDirectory(prefix="malbox-probe-") as spool:
            os.chmod(spool, 0o755)  # noqa: PTH101, S103 - the sample in it is the manifest's own text; nobody must read it
            sample = Path(spool) / "sample"
            sample.write_text("probe", encoding="ascii")
            results = Path(spool) / "results"
            results.mkdir()
            report = await self.run(SandboxRequest(manifest, self._probe_dir, sample, "probe", results))
        if report.outcome != "completed":
            words = report.log.decode("utf-8", "replace").strip()[-500:]
            raise SandboxUnavailable(f"the sandbox does not hold: {report.reason or report.outcome}. {words}".strip())

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """The plugin ran and nothing of it is left but the report. Raises SandboxUnavailable."""
        started = time.monotonic()
        output = Output(manifest=request.manifest, spool_dir=request.spool_dir)
        outcome, reason = await self._supervise(request, output)
        return SandboxReport(
            outcome=outcome,
            reason=reason,
            results=tuple(output.results),
            log=bytes(output.log),
            duration_ms=int((time.monotonic() - started) * 1000),
        )

    async def _supervise(self, request: SandboxRequest, output: Output) -> tuple[RunOutcome, str]:
        async with self._started(request) as (process, stream, init):
            fault = await self._watch(request, output, process, stream, init)
        if fault is not None:
            return fault
        if output.outcome is None:
            return "crashed", f"the plugin's process ended without an outcome (exit status {process.returncode})"
        return output.outcome, output.reason

    async def _watch(
        self,
        request: SandboxRequest,
        output: Output,
        process: asyncio.subprocess.Process,
        stream: PipeReader,
        init: Init,
    ) -> tuple[RunOutcome, str] | None:
        """Waits for the end of the process. What it did that ends it here, if anything."""
        runtime = request.manifest.runtime
        fault: tuple[RunOutcome, str] | None = None
        try:
            async with asyncio.timeout(runtime.timeout_s), asyncio.TaskGroup() as group:
                memory = group.create_task(_watch_memory(init, runtime.memory_mib))
                group.create_task(_send(process, _request_frame(request)))
                group.create_task(_read_log(process, output))
                await output.read(stream)
                await process.wait()
                memory.cancel()
        except* TimeoutError:
            fault = "timed_out", f"the plugin did not end within {runtime.timeout_s} s"
        except* OutputRefused as refused:
            fault = "crashed", f"output refused: {refused.exceptions[0]}"
        except* MemoryError as over:
            fault = "crashed", str(over.exceptions[0])
        return fault

    @contextlib.asynccontextmanager
    async def _started(
        self, request: SandboxRequest
    ) -> AsyncIterator[tuple[asyncio.subprocess.Process, PipeReader, Init]]:
        pipes = _Pipes(*os.pipe(), *os.pipe())
        try:
            with build_filter() as seccomp:
                process = await self._spawn(request, pipes, seccomp.fileno())
        except OSError as error:
            os.close(pipes.output_read)
            os.close(pipes.info_read)
            raise SandboxUnavailable(f"{BWRAP} cannot be started: {error.strerror}") from error
        finally:
            os.close(pipes.output_write)
            os.close(pipes.info_write)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_end, process)
            stream = PipeReader(pipes.output_read)
            stack.callback(stream.close)
            init = await self._init_of(process, pipes.info_read)
            stack.push_async_callback(init.ended, END_TIMEOUT_S)
            stack.push_async_callback(_end, process)
            yield process, stream, init

    async def _spawn(self, request: SandboxRequest, pipes: _Pipes, seccomp_fd: int) -> asyncio.subprocess.Process:
        argv = [
            *_not_root(),
            *self._processors(request),
            BWRAP,
            *NAMESPACES,
            *_filesystem(request),
            *("--info-fd", str(pipes.info_write), "--seccomp", str(seccomp_fd), "--"),
            *_limits(request),
            *_interpreter(),
            f"import sys; sys.path.insert(0, '/app'); from malbox.sdk.runner import main; main({pipes.output_write})",
        ]
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(pipes.output_write, pipes.info_write, seccomp_fd),
            env={},
            cwd="/",
        )

    async def _init_of(self, process: asyncio.subprocess.Process, info_fd: int) -> Init:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await read_init(info_fd)
        except (ValueError, OSError, TimeoutError) as error:
            await _end(process)
            said = await process.stdout.read(500) if process.stdout else b""
            raise SandboxUnavailable(f"the sandbox did not start: {said.decode('utf-8', 'replace').strip()}") from error

    def _processors(self, request: SandboxRequest) -> tuple[str, ...]:
        """As many as the plugin may use, in turn. The filter inside refuses to change them."""
        processors = sorted(os.sched_getaffinity(0))
        turn = next(self._turn)
        count = min(request.manifest.runtime.cpu, len(processors))
        chosen = sorted(processors[(turn + index) % len(processors)] for index in range(count))
        return ("/usr/bin/taskset", "--cpu-list", ",".join(map(str, chosen)))


def _not_root() -> tuple[str, ...]:
    """Where root runs the service, nobody starts the sandbox. By a command: uvloop cannot change a child's user."""
    if os.geteuid() != 0:
        return ()
    return ("/usr/bin/setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


def _limits(request: SandboxRequest) -> tuple[str, ...]:
    """Set inside the user namespace, so that the number of tasks counts this sandbox only."""
    runtime = request.manifest.runtime
    return (
        "/usr/bin/prlimit",
        f"--nproc={TASKS_MAX}",
        f"--data={runtime.memory_mib * MIB}",
        f"--as={ADDRESS_SPACE_MAX_BYTES}",
        f"--cpu={runtime.timeout_s * runtime.cpu + 1}",
        f"--fsize={runtime.scratch_mib * MIB}",
        f"--nofile={OPEN_FILES_MAX}",
        "--core=0",
        "--memlock=0",
        "--msgqueue=0",
        "--",
    )


def _filesystem(request: SandboxRequest) -> list[str]:
    inputs = [("--ro-bind", str(one.path), f"/input/{index}") for index, one in enumerate(request.inputs)]
    sdk = Path(malbox.__file__).parent
    return [
        *("--ro-bind", "/usr", "/usr"),
        *itertools.chain.from_iterable(_top_level(name) for name in ("bin", "lib", "lib32", "lib64", "libx32")),
        *(("--ro-bind", sys.prefix, "/venv") if sys.prefix != sys.base_prefix else ()),
        *("--ro-bind", str(sdk), "/app/malbox"),
        *("--ro-bind", str(request.plugin_dir), "/plugin"),
        *("--ro-bind", str(request.sample), "/input/sample"),
        *itertools.chain.from_iterable(inputs),
        *("--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
        *("--size", str(TMP_MIB * MIB), "--tmpfs", "/tmp"),  # noqa: S108 - the sandbox's own
        *("--size", str(request.manifest.runtime.scratch_mib * MIB), "--tmpfs", "/scratch"),
        *("--remount-ro", "/", "--chdir", "/scratch"),
    ]


def _top_level(name: str) -> tuple[str, ...]:
    """Where /lib and its like are links into /usr they are made again; where they are directories they are bound."""
    path = Path("/") / name
    if path.is_symlink():
        return ("--symlink", os.readlink(path), str(path))  # noqa: PTH115 - the text of the link, not its target
    return ("--ro-bind", str(path), str(path)) if path.is_dir() else ()


def _interpreter() -> tuple[str, ...]:
    python = "/venv/bin/python" if sys.prefix != sys.base_prefix else sys.executable
    return (python, "-I", "-B", "-c")


def _request_frame(request: SandboxRequest) -> bytes:
    return frames.encode_json(
        {
            "frame": "run",
            "plugin_dir": "/plugin",
            "entry": request.manifest.runtime.entry,
            "sample": "/input/sample",
            "sample_name": request.sample_name,
            "scratch": "/scratch",
            "config": request.config,
            "inputs": [
                {"plugin": one.plugin, "name": one.name, "path": f"/input/{index}", "media_type": one.media_type}
                for index, one in enumerate(request.inputs)
            ],
        }
    )


async def _send(process: asyncio.subprocess.Process, request: bytes) -> None:
    """A plugin that ended before it read its request is judged by its outcome, not by this pipe."""
    if process.stdin is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(request)
        await process.stdin.drain()
        process.stdin.close()


async def _read_log(process: asyncio.subprocess.Process, output: Output) -> None:
    while process.stdout is not None and (content := await process.stdout.read(64 * 1024)):
        output.append_log(content)


async def _watch_memory(init: Init, memory_mib: int) -> None:
    """RLIMIT_DATA bounds each process; this bounds all of them together. Raises MemoryError over the limit."""
    while True:
        used = init.memory_bytes()
        if used > memory_mib * MIB:
            raise MemoryError(f"the plugin used more than {memory_mib} MiB")
        await asyncio.sleep(MEMORY_POLL_S)


async def _end(process: asyncio.subprocess.Process) -> None:
    """The outer process is gone, and with it, by the kernel's hand, everything in its process namespace."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    async with asyncio.timeout(END_TIMEOUT_S):
        while process.stdout is not None and await process.stdout.read(64 * 1024):
            continue  # asyncio calls a process ended only when its pipes are read to their end
        await process.wait()
