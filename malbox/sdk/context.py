"""The one argument of a plugin. Standard library only: it travels into the sandbox."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

EVENTS_PLUGIN = "malbox"
EVENTS_NAME = "events"


class PluginFailure(Exception):
    """The plugin could not do its work on these bytes; the message says why, for an analyst."""


class PluginSkipped(Exception):
    """There is nothing for the plugin to do here; the message says why."""


@dataclass(frozen=True)
class Input:
    """An earlier result of the same task, or the container that the sample came out of. Hostile bytes, read-only.

    `is_truncated`: it is known to be less than there was. What does not stand in it may have happened.
    """

    plugin: str
    name: str
    path: Path
    media_type: str
    is_truncated: bool = False

    def read_json(self) -> Any:
        """The input parsed as JSON. Raises ValueError."""
        return json.loads(self.path.read_bytes())


@dataclass(frozen=True)
class Event:
    """A fact about the task, said before this run began: its name as the manifest has it, and its fields."""

    fact: str
    content: dict[str, Any]


class Emitter(Protocol):
    """Where results and log lines go: the host's pipe, or a list in a test."""

    def result(self, name: str, kind: str, media_type: str, content: bytes | Path) -> None:
        """The result is handed over."""

    def log(self, event: str, keys: dict[str, Any]) -> None:
        """The line is handed over."""


def _no_keys() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Context:
    """What the plugin works on: `sample` (read-only), its `sample_name` (for display, hostile), `config`, and `inputs`.

    `scratch` is the only directory that is worth writing to; it is empty at the start, bounded, and gone at the end.
    `kept` is there for a scoped plugin only: what a run leaves in it is found by the later runs of the same scope.
    """

    sample: Path
    sample_name: str
    scratch: Path
    emitter: Emitter
    config: dict[str, Any] = field(default_factory=_no_keys)
    inputs: tuple[Input, ...] = ()
    kept: Path | None = None

    def emit_json(self, name: str, value: Any) -> None:
        """One JSON result. `name` is declared in the manifest. Raises TypeError or ValueError when it is not JSON."""
        content = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        self.emitter.result(name, "json", "application/json", content)

    def emit_bytes(self, name: str, content: bytes, media_type: str = "application/octet-stream") -> None:
        """One result that is bytes."""
        self.emitter.result(name, "bytes", media_type, content)

    def emit_file(self, name: str, path: Path, media_type: str = "application/octet-stream") -> None:
        """One result that is a file of the scratch directory, streamed. Raises OSError."""
        self.emitter.result(name, "file", media_type, path)

    def log(self, event: str, **keys: Any) -> None:
        """One line in the run's log: a constant past-tense event, everything else a key."""
        self.emitter.log(event, keys)

    @property
    def events(self) -> tuple[Event, ...]:
        """The facts that the manifest subscribes to, in order; the latest thousand of them. Raises ValueError."""
        told = self.input(EVENTS_PLUGIN, EVENTS_NAME)
        return () if told is None else tuple(Event(**event) for event in told.read_json()["events"])

    def input(self, plugin: str, name: str) -> Input | None:
        """The earlier result of that plugin and name, if there is one."""
        return next((one for one in self.inputs if (one.plugin, one.name) == (plugin, name)), None)


PluginFunction = Callable[[Context], None]
