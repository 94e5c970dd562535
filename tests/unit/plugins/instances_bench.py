"""Instances over a runner that a test holds in its hands: who was started, who runs, who is closed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from malbox.sdk.manifest import Manifest
from services.chassis.clock import SystemClock
from services.plugins.domain.catalogue import Plugin
from services.plugins.domain.occasion import Occasion
from services.plugins.errors import PluginNotReady, SandboxLost
from services.plugins.instances import Instances
from services.plugins.ports import SandboxReport, SandboxRequest
from services.plugins.quarantine import Quarantine

DONE = SandboxReport("completed", "", (), b"", 1)
LATE_S = 60.0


def plugin(name: str = "one", *, lifecycle: str = "persistent", key: str | None = None, digest: str = "") -> Plugin:
    """A plugin of that lifecycle."""
    said: dict[str, Any] = {
        "plugin": {"name": name, "version": "1.0.0", "description": "x", "kind": "host"},
        "runtime": {"lifecycle": lifecycle},
        "applies": {"stages": ["static"]},
    }
    if key is not None:
        said["scope"] = {"key": key}
    return Plugin(Manifest.model_validate(said), Path("/nowhere") / digest / name, digest)


def occasion(task: str = "a", *, stage: str = "static", sample: str = "s", owner: str | None = "ann") -> Occasion:
    """A stage of a task."""
    return Occasion(f"tsk_{task}", 1, stage, sample, owner)


def request(of: Plugin) -> SandboxRequest:
    """A run that no file is needed for."""
    return SandboxRequest(of.manifest, of.folder, Path("/sample"), "sample", Path("/spool"))


@dataclass
class FakeSandbox:
    """Runs last until the test lets them end."""

    runner: "FakeRunner"
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    runs: int = 0
    is_deaf: bool = False

    @property
    def is_usable(self) -> bool:
        """Until it is gone."""
        return not self.gone.is_set()

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """It ran, when the runner's gate is open; where the runner says so, it took the sandbox along."""
        self.runs += 1
        self.runner.running.add(request.manifest.plugin.name)
        self.runner.news.set()
        await self.runner.gate.wait()
        self.runner.running.discard(request.manifest.plugin.name)
        if self.runner.is_fatal:
            await self.close()
            return SandboxReport("timed_out", "late", (), b"", 1)
        return DONE

    async def ping(self) -> None:
        """It answers unless it is gone or deaf."""
        if self.is_deaf or self.gone.is_set():
            await self.close()
            raise SandboxLost

    async def wait_ended(self) -> None:
        """It is gone."""
        await self.gone.wait()

    async def close(self) -> None:
        """It is gone."""
        self.gone.set()


@dataclass
class FakeRunner:
    """Starts sandboxes, unless it is told to fail."""

    started: list[FakeSandbox] = field(default_factory=list)
    failures: list[str | Exception] = field(default_factory=list)
    attempts: int = 0
    running: set[str] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_fatal: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def condition(self) -> dict[str, Any]:
        """Nothing is said of it."""
        return {}

    async def probe(self) -> None:
        """It holds."""

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """A sandbox of its own."""
        sandbox = await self.start(request.manifest, request.plugin_dir)
        try:
            return await sandbox.run(request)
        finally:
            await sandbox.close()

    async def start(self, manifest: Manifest, plugin_dir: Path) -> FakeSandbox:
        """Ready, or the next failure."""
        assert manifest.plugin.name == plugin_dir.name
        self.attempts += 1
        await asyncio.sleep(0)
        if self.failures:
            failure = self.failures.pop(0)
            raise failure if isinstance(failure, Exception) else PluginNotReady(failure)
        sandbox = FakeSandbox(self)
        self.started.append(sandbox)
        self.news.set()
        return sandbox

    @property
    def alive(self) -> list[FakeSandbox]:
        """Those that are not closed."""
        return [sandbox for sandbox in self.started if sandbox.is_usable]


@asynccontextmanager
async def served(
    runner: FakeRunner, *kept: Plugin, most: int = 2, quarantine: Quarantine | None = None
) -> AsyncIterator[Instances]:
    """Instances that run; afterwards none is left."""
    instances = Instances(runner, SystemClock(), most=most, quarantine=quarantine)
    async with instances.running(lambda: kept):
        yield instances
    assert runner.alive == []
    assert [one for one in instances.seen() if one.state != "quarantined"] == []


async def until(holds: Any) -> None:
    """It holds, after however many turns of the loop. Raises TimeoutError."""
    async with asyncio.timeout(LATE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in tasks of the instances
            await asyncio.sleep(0.005)
