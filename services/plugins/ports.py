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


class SandboxedRunner(Protocol):
    """Runs host plugins where they can harm nothing but their own run."""

    async def probe(self) -> None:
        """The sandbox was tried and held. Raises SandboxUnavailable, saying what is missing."""

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """The plugin ran and nothing of it is left but the report. Raises SandboxUnavailable when it could not start.

        Cancelling the call ends the run at once.
        """
