"""Host plugins in a bubblewrap sandbox: namespaces of their own, a read-only root, no network, limits, and an end.

The command is in `command_line`, the life of a started sandbox in `sandbox`, the filter of system calls in `seccomp`.
Everything that a plugin emits comes through one pipe and is checked by `Output`.
"""

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from malbox.sdk import landlock
from malbox.sdk.manifest import Manifest, ManifestError, load_manifest
from services.plugins.adapters.command_line import BWRAP, TASKS_MAX, command, start_frame, writable_mib
from services.plugins.adapters.control import Control
from services.plugins.adapters.groups import CONTROLLERS, Group, Groups, Limits
from services.plugins.adapters.inbox import Inbox
from services.plugins.adapters.output import storable
from services.plugins.adapters.process_tree import Init, read_init
from services.plugins.adapters.sandbox import END_TIMEOUT_S, BubblewrapSandbox, Outer
from services.plugins.adapters.seccomp import build_filter
from services.plugins.errors import PluginNotReady, SandboxLost, SandboxUnavailable
from services.plugins.ports import SandboxReport, SandboxRequest

START_TIMEOUT_S = 20.0
PROBE_DIR = Path(__file__).parent.parent / "internal" / "probe"


class BubblewrapRunner:
    """Implements SandboxedRunner. Started by root, the sandbox's processes belong to nobody, never to root.

    Inboxes are made in `scratch_dir`: on the file system of the object store nothing is copied into them. `groups` are
    directories in which control groups may be made; without them limits are those of each process, and looked after.
    """

    def __init__(
        self, *, probe_dir: Path = PROBE_DIR, scratch_dir: Path | None = None, groups: Sequence[Path] = ()
    ) -> None:
        self._probe_dir = probe_dir
        self._scratch_dir = scratch_dir
        self._groups = Groups(groups)
        self._turn = itertools.count()

    @property
    def condition(self) -> dict[str, Any]:
        """What keeps a sandbox within its limits here, beside the limits of each process."""
        unlimited = [name for name in CONTROLLERS if name not in self._groups.limited]
        return {"landlock": landlock.version(), "control_groups": self._groups.limited, "no_control_group": unlimited}

    async def probe(self) -> None:
        """A harmless plugin tried to break out of every wall and met it. Raises SandboxUnavailable."""
        await self._groups.probe(END_TIMEOUT_S)
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
        try:
            sandbox = await self.start(request.manifest, request.plugin_dir)
        except PluginNotReady as error:
            return SandboxReport("crashed", str(error), (), error.log, int((time.monotonic() - started) * 1000))
        try:
            report = await sandbox.run(request)
        finally:
            await sandbox.close()
        return replace(report, duration_ms=int((time.monotonic() - started) * 1000))

    async def start(self, manifest: Manifest, plugin_dir: Path) -> BubblewrapSandbox:
        """The plugin is loaded behind its walls and waits for runs. Raises PluginNotReady, SandboxUnavailable."""
        async with AsyncExitStack() as stack:
            inbox = Inbox(self._scratch_dir)
            stack.callback(inbox.remove)
            group = self._groups.make(_limits(manifest))
            if group is not None:
                stack.push_async_callback(group.remove, END_TIMEOUT_S)
            ours, theirs = socket.socketpair()
            control = Control(ours)
            stack.callback(control.close)
            with theirs:
                born = asyncio.create_task(self._bear(manifest, plugin_dir, inbox, theirs.fileno(), group))
                outer, init = await _whole(born, stack)
            await _until_ready(control, manifest, outer)
            return BubblewrapSandbox(
                manifest, outer=outer, init=init, control=control, inbox=inbox, group=group, stack=stack.pop_all()
            )

    async def _bear(
        self, manifest: Manifest, plugin_dir: Path, inbox: Inbox, control_fd: int, group: Group | None
    ) -> tuple[Outer, Init]:
        """The sandbox's outer process and its init. Not to be cancelled: see `_whole`."""
        outer, info_fd = await self._spawn(manifest, plugin_dir, inbox, control_fd, group)
        return outer, await _init_of(outer, info_fd)

    async def _spawn(
        self, manifest: Manifest, plugin_dir: Path, inbox: Inbox, control_fd: int, group: Group | None
    ) -> tuple[Outer, int]:
        info_read, info_write = os.pipe()
        try:
            with build_filter() as seccomp:
                descriptors = (control_fd, info_write, seccomp.fileno())
                argv = command(
                    manifest,
                    plugin_dir,
                    inbox.path,
                    processors=self._processors(manifest.runtime.cpu),
                    descriptors=descriptors,
                )
                process = await asyncio.create_subprocess_exec(
                    *(group.entered() if group is not None else ()),
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=descriptors,
                    env={},
                    cwd="/",
                )
        except OSError as error:
            os.close(info_read)
            raise SandboxUnavailable(f"{BWRAP} cannot be started: {error.strerror}") from error
        finally:
            os.close(info_write)
        return Outer(process), info_read

    def _processors(self, wanted: int) -> list[int]:
        """As many as the plugin may use, in turn. The filter inside refuses to change them."""
        processors = sorted(os.sched_getaffinity(0))
        turn = next(self._turn)
        return sorted(processors[(turn + index) % len(processors)] for index in range(min(wanted, len(processors))))


def _limits(manifest: Manifest) -> Limits:
    runtime = manifest.runtime
    return Limits(memory_mib=runtime.memory_mib + writable_mib(manifest), tasks=TASKS_MAX, cpu=runtime.cpu)


async def _whole(born: asyncio.Task[tuple[Outer, Init]], stack: AsyncExitStack) -> tuple[Outer, Init]:
    """Both processes, which end with the stack. Whoever cancels the call waits until both are there, and ended.

    Bubblewrap's child waits for its parent before it binds its life to it. Were the parent killed alone in that moment,
    the child would stay for ever, and with it whoever waits for the end of its output. So the init is known before
    anything is ended, and is itself the first to be killed.
    """
    cancelled: asyncio.CancelledError | None = None
    while not born.done():
        try:
            await asyncio.wait({born})
        except asyncio.CancelledError as error:
            cancelled = error
    outer, init = born.result()
    stack.push_async_callback(init.close, END_TIMEOUT_S)
    stack.push_async_callback(outer.end)
    stack.callback(init.kill)
    if cancelled is not None:
        raise cancelled
    return outer, init


async def _init_of(outer: Outer, info_fd: int) -> Init:
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            return await read_init(info_fd)
    except (ValueError, OSError, TimeoutError) as error:
        await outer.end()
        said = outer.said[:500].decode("utf-8", "replace").strip()
        raise SandboxUnavailable(f"the sandbox did not start: {said}") from error


async def _until_ready(control: Control, manifest: Manifest, outer: Outer) -> None:
    """The handshake, within its deadline."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await control.send(start_frame(manifest))
            said = await control.hear("ready", "refused")
    except TimeoutError as error:
        raise PluginNotReady(f"the plugin was not ready within {START_TIMEOUT_S:.0f} s", bytes(outer.said)) from error
    except SandboxLost as error:
        with contextlib.suppress(TimeoutError):
            await outer.end()
        words = storable(outer.said[-500:].decode("utf-8", "replace")).strip()
        raise PluginNotReady(f"the plugin ended while it was loaded. {words}".strip(), bytes(outer.said)) from error
    if said["frame"] == "refused":
        reason = storable(str(said.get("reason")))[:1000]
        raise PluginNotReady(f"the plugin cannot be loaded: {reason}", bytes(outer.said))
