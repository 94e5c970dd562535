"""A started sandbox: its process, what it may hear and see, and one run after another in it."""

import asyncio
import contextlib
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from contracts.plugins import RunOutcome
from malbox.sdk.manifest import Manifest
from services.plugins.adapters.command_line import MIB, run_frame
from services.plugins.adapters.control import Control
from services.plugins.adapters.groups import Group
from services.plugins.adapters.inbox import Inbox
from services.plugins.adapters.output import LOG_MAX_BYTES, Output
from services.plugins.adapters.pipe_reader import PipeReader
from services.plugins.adapters.process_tree import Init
from services.plugins.errors import OutputRefused, SandboxLost
from services.plugins.ports import SandboxReport, SandboxRequest

MEMORY_POLL_S = 0.2
PING_TIMEOUT_S = 10.0
END_TIMEOUT_S = 10.0
PIECE_BYTES = 64 * 1024
WAIT_STATUS_MAX = 0xFFFF


class Outer:
    """The process that this host started. What it and ours inside say before any run is kept up to a limit."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = bytearray()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while self.process.stdout is not None and (piece := await self.process.stdout.read(PIECE_BYTES)):
            self.said += piece[: LOG_MAX_BYTES - len(self.said)]

    async def end(self) -> None:
        """It is gone, and with it, by the kernel's hand, everything in its process namespace."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        async with asyncio.timeout(END_TIMEOUT_S):
            await self._listening  # asyncio calls a process ended only when its pipes are read to their end
            await self.process.wait()


@dataclass
class _Pipe:
    """One run's way out: the sandbox gets the writing end, and nobody else has it."""

    reader: PipeReader
    writer: int

    @classmethod
    def make(cls, stack: AsyncExitStack) -> "_Pipe":
        ours, theirs = os.pipe()
        pipe = cls(PipeReader(ours), theirs)
        stack.callback(pipe.reader.close)
        return pipe


class BubblewrapSandbox:
    """Implements Sandbox. `stack` takes everything down that was put up for it."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        outer: Outer,
        init: Init,
        control: Control,
        inbox: Inbox,
        group: Group | None,
        stack: AsyncExitStack,
    ) -> None:
        self._manifest = manifest
        self._outer = outer
        self._init = init
        self._control = control
        self._inbox = inbox
        self._group = group
        self._stack = stack
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it would serve another run."""
        return self._closing is None and not self._init.is_gone

    async def wait_ended(self) -> None:
        """It is gone, whoever ended it."""
        await self._init.wait_gone()

    async def ping(self) -> None:
        """It answered in time; or it is closed, and SandboxLost raised."""
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._control.send({"frame": "ping"})
                await self._control.hear("pong")
        except (TimeoutError, SandboxLost) as error:
            await self.close()
            raise SandboxLost from error

    async def close(self) -> None:
        """Nothing of it is left. Cancelling the call does not stop that."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._stack.aclose())
        await asyncio.shield(self._closing)

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """The plugin ran and nothing of the run is left but the report; one that broke a rule took all with it."""
        started = time.monotonic()
        output = Output(manifest=self._manifest, spool_dir=request.spool_dir)
        is_well = False
        try:
            async with self._inbox.filled(request):
                outcome, reason, is_well = await self._outcome(request, output)
        finally:
            if not is_well:
                await self.close()
        return SandboxReport(
            outcome=outcome,
            reason=reason,
            results=tuple(output.results),
            log=output.told_log,
            duration_ms=int((time.monotonic() - started) * 1000),
        )

    async def _outcome(self, request: SandboxRequest, output: Output) -> tuple[RunOutcome, str, bool]:
        """Outcome, reason, and whether the sandbox is as good as before."""
        runtime = request.manifest.runtime
        fault: tuple[RunOutcome, str] | None = None
        status: int | None = None
        try:
            status = await self._watch(request, output)
        except* TimeoutError:
            fault = "timed_out", f"the plugin did not end within {runtime.timeout_s} s"
        except* OutputRefused as refused:
            fault = "crashed", f"output refused: {refused.exceptions[0]}"
        except* MemoryError as over:
            fault = "crashed", str(over.exceptions[0])
        if fault is not None:
            return *fault, False
        if self._group is not None and self._group.was_over():
            return "crashed", _over(runtime.memory_mib), False
        if output.outcome is None:
            ended = "" if status is None else f" ({_words(status)})"
            return "crashed", f"the plugin's process ended without an outcome{ended}", status is not None
        return output.outcome, output.reason, status is not None

    async def _watch(self, request: SandboxRequest, output: Output) -> int | None:
        """The wait status of the run, once it and all it started have ended; None where the sandbox ended with it."""
        runtime = request.manifest.runtime
        async with AsyncExitStack() as stack:
            said, log = _Pipe.make(stack), _Pipe.make(stack)
            async with asyncio.timeout(runtime.timeout_s), asyncio.TaskGroup() as group:
                memory = group.create_task(self._watch_memory(runtime.memory_mib))
                group.create_task(_read_log(log.reader, output))
                try:
                    await self._control.send(run_frame(request), (said.writer, log.writer))
                except SandboxLost:
                    status = None
                finally:
                    os.close(said.writer)
                    os.close(log.writer)
                await output.read(said.reader)
                try:
                    status = _status_of(await self._control.hear("idle"))
                except SandboxLost:
                    status = None
                memory.cancel()
        return status

    async def _watch_memory(self, memory_mib: int) -> None:
        """RLIMIT_DATA bounds each process; this bounds all of them together. Raises MemoryError over the limit.

        The kernel says so where it counts for a group; otherwise it is looked at again and again.
        """
        if self._group is not None and self._group.has_memory:
            await self._group.wait_overflow()
            raise MemoryError(_over(memory_mib))
        while self._init.memory_bytes() <= memory_mib * MIB:  # noqa: ASYNC110 - the kernel does not say
            await asyncio.sleep(MEMORY_POLL_S)
        raise MemoryError(_over(memory_mib))


async def _read_log(reader: PipeReader, output: Output) -> None:
    while content := await reader.read(PIECE_BYTES):
        output.append_log(content)


def _status_of(said: dict[str, Any]) -> int:
    """The wait status of a process that ended. Raises SandboxLost for anything else: that is not our process's word."""
    status = said.get("status")
    if type(status) is not int or not 0 <= status <= WAIT_STATUS_MAX:
        raise SandboxLost
    if not os.WIFEXITED(status) and not os.WIFSIGNALED(status):
        raise SandboxLost
    return status


def _over(memory_mib: int) -> str:
    return f"the plugin used more than {memory_mib} MiB"


def _words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"
