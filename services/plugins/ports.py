"""What the plugins service asks of the outside world to run a host plugin. The guest's port is in `ports_guest`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from contracts.plugins import RunOutcome
from malbox.sdk.manifest import Manifest


@dataclass(frozen=True)
class InputFile:
    """An earlier result as the plugin will see it, and the file of this host that holds its bytes."""

    plugin: str
    name: str
    path: Path
    media_type: str
    is_truncated: bool = False


@dataclass(frozen=True)
class SandboxRequest:
    """One run of one host plugin: its code, its bytes, its configuration, and the directory for what it emits.

    `spool_dir` exists, is empty, and belongs to the caller, who removes it.
    """

    manifest: Manifest
    plugin_dir: Path
    sample: Path
    sample_name: str
    spool_dir: Path
    config: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[InputFile, ...] = ()


@dataclass(frozen=True)
class SpooledResult:
    """One result as the plugin emitted it, checked: declared, named safely, of the size it said; JSON if it says so."""

    name: str
    kind: str
    media_type: str
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class SandboxReport:
    """How a run ended, what it emitted before, and its log. `reason` is empty when it completed."""

    outcome: RunOutcome
    reason: str
    results: tuple[SpooledResult, ...]
    log: bytes
    duration_ms: int


class Sandbox(Protocol):
    """A plugin that was started and waits for runs, one at a time."""

    @property
    def is_usable(self) -> bool:
        """Whether it would serve another run."""

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """The plugin ran and nothing of the run is left but the report. A run that breaks a rule ends the sandbox.

        Cancelling the call ends the sandbox too.
        """

    async def ping(self) -> None:
        """It answered. Raises SandboxLost, and it is closed, where it did not."""

    async def wait_ended(self) -> None:
        """It is gone, whoever ended it."""

    async def close(self) -> None:
        """Nothing of it is left."""


class SandboxedRunner(Protocol):
    """Runs host plugins where they can harm nothing but their own run."""

    @property
    def condition(self) -> dict[str, Any]:
        """What protects and limits here, and what does not, for whoever looks after the service."""

    async def probe(self) -> None:
        """The sandbox was tried and held. Raises SandboxUnavailable, saying what is missing."""

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """The plugin ran in a sandbox that served no other run. Raises SandboxUnavailable when it could not start.

        Cancelling the call ends the run at once.
        """

    async def start(self, manifest: Manifest, plugin_dir: Path) -> Sandbox:
        """The plugin was loaded behind its walls and said that it is ready.

        Raises PluginNotReady, SandboxUnavailable.
        """
