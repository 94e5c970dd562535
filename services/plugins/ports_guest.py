"""What the plugins service asks of the agent inside a leased machine. Everything that comes back is bounded evidence.

Order of a session: hello, set_clock, put, init_plugin or start_plugin (each), arm, launch, watch until the observation
ends, flush, the rest of watch (it ends by itself at `RecordSealed`), end_plugin (each), collect, shutdown_plugin
(each), shutdown, close. `tell` may come at any time between start_plugin and flush.
Strings are the guest's own words, bounded and free of control characters; show them, never act on them.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from contracts.machines import GuestEndpoint, LeaseRef
from services.chassis.errors import PermanentError, TransientError


class GuestUnreachable(TransientError):
    """the agent of the leased machine does not answer"""


class GuestRefused(PermanentError):
    """the agent of the leased machine refused the call"""


class GuestLied(PermanentError):
    """what the guest sent breaks the bounds of its protocol"""


@dataclass(frozen=True)
class GuestHello:
    """What the agent of the lease said of itself."""

    agent_version: str
    platform: str
    boot_id: str
    capabilities: tuple[str, ...]
    plugin_versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Launched:
    """The sample's first process. `exec_error` says why the guest's kernel refused the program; empty when it runs."""

    pid: int
    started_at_ns: int
    exec_error: str


@dataclass(frozen=True)
class Heartbeat:
    """The agent lives; comes every second and is not part of the record."""

    beat: int


@dataclass(frozen=True)
class ProcessStarted:
    """A process of the sample's tree runs."""

    position: int
    pid: int
    is_first: bool


@dataclass(frozen=True)
class ProcessExited:
    """A process of the tree ended, by itself (`exit_code`) or by a signal; both None when the guest did not say."""

    position: int
    pid: int
    is_first: bool
    exit_code: int | None
    signal: int | None


@dataclass(frozen=True)
class TreeEmpty:
    """No process of the sample's tree exists."""

    position: int


@dataclass(frozen=True)
class EvidenceFrame:
    """The next piece of a source's byte stream. `gap_frames`: how many frames before it never came."""

    position: int
    source: str
    sequence: int
    content: bytes
    is_truncated: bool
    gap_frames: int = 0


@dataclass(frozen=True)
class GuestLog:
    """A line of the agent's log."""

    position: int
    event: str
    detail: str


@dataclass(frozen=True)
class KeepAlive:
    """A guest plugin asks that the observation go on, or lets go. Its manifest and the hard timeout bound the wish."""

    position: int
    plugin: str
    is_held: bool


@dataclass(frozen=True)
class PluginPiece:
    """A piece of what a bundled guest plugin emits, in its own words and under its own count. `json`: one record."""

    position: int
    plugin: str
    sequence: int
    name: str
    kind: str
    media_type: str
    content: bytes
    is_last: bool = False


@dataclass(frozen=True)
class RecordSealed:
    """The record ends here; nothing follows."""

    position: int


GuestEvent = (
    Heartbeat
    | ProcessStarted
    | ProcessExited
    | TreeEmpty
    | EvidenceFrame
    | GuestLog
    | KeepAlive
    | PluginPiece
    | RecordSealed
)


@dataclass(frozen=True)
class PluginLimits:
    """What the process of a guest plugin may use, and may do although it is nobody. `timeout_s` is of each call."""

    timeout_s: int
    memory_mib: int
    scratch_mib: int
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class PluginEnding:
    """How a bundled guest plugin ended, as its agent says. `pieces`: how many of its pieces stand in the record."""

    outcome: str
    reason: str
    pieces: int
    log: bytes
    duration_ms: int


@dataclass(frozen=True)
class SourceSummary:
    """What the agent says that it recorded for one source; compare with what came."""

    source: str
    frames: int
    size_bytes: int
    sha256: str
    is_truncated: bool


@dataclass(frozen=True)
class Flushed:
    """The tree is gone and the record complete up to `last_position`. `killed`: processes that had to be ended."""

    sources: tuple[SourceSummary, ...]
    last_position: int
    killed: int


@dataclass(frozen=True)
class CollectedFile:
    """A file that the sample wrote: whole at `path` on this host, hashed here. `guest_path` is for display only."""

    path: Path
    guest_path: str
    sha256: str
    size_bytes: int
    is_deleted: bool
    is_truncated: bool


@dataclass(frozen=True)
class Collected:
    """The files, and how many more there were. `fault`: why no more came, although the guest had not said its end."""

    files: tuple[CollectedFile, ...]
    omitted: int
    fault: "GuestLied | GuestRefused | GuestUnreachable | None" = None


class GuestSession(Protocol):
    """The agent of one lease. Every call has a deadline of its own.

    Raises GuestUnreachable (transient) when the agent does not answer in time, GuestRefused (permanent) when it
    refuses, and GuestLied (permanent) when what it sends breaks a bound.
    """

    @property
    def frames_refused(self) -> int:
        """Events that were dropped because they named another lease or could not be believed."""

    async def hello(self) -> GuestHello:
        """The agent was reached and proven to be the lease's."""

    async def set_clock(self) -> None:
        """The guest's clock shows this host's time: it stood still with the machine."""

    async def put(self, source: Path, name: str) -> str:
        """The file stands in the guest, executable by the sample's user; its path there is returned."""

    async def init_plugin(self, name: str, config: dict[str, object]) -> str:
        """The guest plugin is ready; its version is returned."""

    async def start_plugin(self, name: str, bundle: Path, config: dict[str, object], bounds: PluginLimits) -> None:
        """The bundle is in the guest, and its plugin is ready, or ended already: `end_plugin` says how."""

    async def tell(self, plugin: str, message_id: str, fact: str, content: dict[str, object]) -> bool:
        """The bundled plugin is told of the fact, once, however often this is said; False when it cannot be."""

    async def arm(self) -> None:
        """Every initialised plugin observes."""

    async def launch(
        self,
        argv: tuple[str, ...],
        *,
        environment: dict[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        has_network: bool = False,
    ) -> Launched:
        """The program runs as the sample's user, with the machine's analysis card if it is to have a network.

        Once per lease; a repeated call returns the first outcome.
        """

    def watch(self, *, after_position: int = 0) -> AsyncGenerator[GuestEvent, None]:
        """Everything that happened after that position, and then as it happens.

        Raises GuestUnreachable when the stream breaks or no heartbeat comes for 20 s; watch again to go on.
        """

    async def flush(self) -> Flushed:
        """What is left of the tree is killed; the record is complete."""

    async def collect(self, into: Path, *, timeout_s: float) -> Collected:
        """Files that the sample wrote stand in the directory `into`, under names of our own choosing.

        What came whole before a fault is kept and the fault returned beside it; only this host's own faults are raised.
        """

    async def shutdown_plugin(self, name: str) -> None:
        """The guest plugin is gone."""

    async def end_plugin(self, name: str) -> PluginEnding:
        """Nothing of the bundled plugin is left in the guest; how it ended. A repeated call returns the same."""

    async def shutdown(self) -> None:
        """The agent serves no more."""

    async def close(self) -> None:
        """The connection is closed."""


class GuestConnector(Protocol):
    """Opens sessions."""

    async def connect(self, endpoint: GuestEndpoint, lease: LeaseRef, *, timeout_s: float) -> GuestSession:
        """A session whose agent proved the identity of the endpoint. Raises GuestUnreachable, GuestRefused."""
