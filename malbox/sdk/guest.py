"""What a guest plugin is written against. Standard library only: it travels into the machine with the plugin.

A guest plugin is a folder with `plugin.toml` (`kind = "guest"`) and code, which has a class that its `entry` names:

    initialize -> arm -> (the sample runs) -> flush -> shutdown

Each call has the deadline that the manifest names (`timeout_s`) and runs in the process's first thread, `on_event` too.
What observes in between is a thread that `arm` starts. Whatever a call or a thread raises ends the plugin and is its
outcome; what was emitted before stays. The process is nobody's, bounded, without a network, in a directory of its own.
"""

from pathlib import Path
from typing import Any, Protocol

from malbox.sdk.context import Event, PluginFailure, PluginSkipped

__all__ = ["RECORD_MAX_BYTES", "Event", "GuestPlugin", "Outlet", "PluginFailure", "PluginSkipped"]

RECORD_MAX_BYTES = 60 * 1024


class Outlet(Protocol):
    """Where evidence and log lines go: the agent's pipe, or a list in a test. Safe for threads."""

    def record(self, name: str, value: Any) -> None:
        """The record follows those of the result before."""

    def whole(self, name: str, kind: str, media_type: str, content: bytes | Path) -> None:
        """The result is handed over."""

    def log(self, event: str, keys: dict[str, Any]) -> None:
        """The line is handed over."""


class GuestPlugin:
    """An observer inside the machine. Subclasses override what they need; each call may be left out.

    `scratch` is the only directory that is worth writing to; it is empty at the start, and gone with the machine.
    """

    def __init__(self, outlet: Outlet, scratch: Path) -> None:
        self._outlet = outlet
        self.scratch = scratch

    def initialize(self, config: dict[str, Any]) -> None:
        """Ready to arm, with that configuration. Raises PluginSkipped or PluginFailure when it cannot be."""

    def arm(self) -> None:
        """Observes from now on: the sample is started next."""

    def on_event(self, event: Event) -> None:
        """A fact of the task that the manifest subscribes to was said; it may be from before the plugin was there."""

    def flush(self) -> None:
        """The observation is over, and nothing of the sample runs: everything that was seen is emitted."""

    def shutdown(self) -> None:
        """Holds nothing any more. What is emitted here is lost."""

    def emit(self, name: str, record: Any) -> None:
        """One more record of a JSON result, which becomes the list of them; it is on its way to the host at once.

        Raises TypeError or ValueError when it is not JSON or longer than `RECORD_MAX_BYTES`.
        """
        self._outlet.record(name, record)

    def emit_bytes(self, name: str, content: bytes, media_type: str = "application/octet-stream") -> None:
        """One result that is bytes. Each name once."""
        self._outlet.whole(name, "bytes", media_type, content)

    def emit_file(self, name: str, path: Path, media_type: str = "application/octet-stream") -> None:
        """One result that is a file, streamed as it is now. Each name once. Raises OSError."""
        self._outlet.whole(name, "file", media_type, path)

    def log(self, event: str, **keys: Any) -> None:
        """One line in the run's log: a constant past-tense event, everything else a key."""
        self._outlet.log(event, keys)
