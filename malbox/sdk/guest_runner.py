"""The process of one guest plugin: answers the agent's calls, and carries what the plugin emits.

Standard library only: it travels into the machine with the plugin. Frames are those of `malbox.sdk.frames`:

    agent -> plugin  J {"frame": "call", "call": initialize | arm | event | flush | shutdown, ...}
    plugin -> agent  J {"frame": "done", "call"}
                     J {"frame": "evidence", "sequence", "name", "kind", "media_type", "is_last"} and then one B
                     J {"frame": "ended", "outcome": failed | crashed | skipped, "reason"}

The sequence counts the pieces of evidence from 0. Standard output is the wire: what the plugin prints goes to the log.
"""

import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from malbox.sdk import frames
from malbox.sdk.context import Event, PluginFailure, PluginSkipped
from malbox.sdk.guest import RECORD_MAX_BYTES, GuestPlugin

PACKAGE = "malbox_plugin"
PIECE_BYTES = 60 * 1024
REASON_MAX_CHARS = 1000
LOG_LINE_MAX_CHARS = 2000


class PipeOutlet:
    """Implements Outlet over the wire to the agent."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._sequence = 0

    def record(self, name: str, value: Any) -> None:
        """One piece."""
        content = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        if len(content) > RECORD_MAX_BYTES:
            raise ValueError(f"a record of {len(content)} bytes; the limit is {RECORD_MAX_BYTES}")
        self._piece(name, "json", "application/json", content, is_last=False)

    def whole(self, name: str, kind: str, media_type: str, content: bytes | Path) -> None:
        """As many pieces as it takes; the last one may be empty."""
        pieces = _cut(content) if isinstance(content, bytes) else _read(content)
        for piece in pieces:
            self._piece(name, kind, media_type, piece, is_last=False)
        self._piece(name, kind, media_type, b"", is_last=True)

    def log(self, event: str, keys: dict[str, Any]) -> None:
        """One bounded line on standard error, which the agent keeps."""
        line = json.dumps({"event": event, "keys": {key: str(value) for key, value in keys.items()}})
        sys.stderr.write(f"{line[:LOG_LINE_MAX_CHARS]}\n")
        sys.stderr.flush()

    def say(self, **fields: Any) -> None:
        """A frame without evidence."""
        with self._lock:
            self._stream.write(frames.encode_json(fields))
            self._stream.flush()

    def _piece(self, name: str, kind: str, media_type: str, content: bytes, *, is_last: bool) -> None:
        with self._lock:
            announced = {"name": name, "kind": kind, "media_type": media_type, "is_last": is_last}
            self._stream.write(frames.encode_json({"frame": "evidence", "sequence": self._sequence, **announced}))
            self._stream.write(frames.encode(frames.BYTES_KIND, content))
            self._stream.flush()
            self._sequence += 1


def main(entry: str) -> None:
    """The plugin was driven until the agent let it go, or it ended by itself. Does not return."""
    wire = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    outlet = PipeOutlet(wire)
    threading.excepthook = lambda args: _end(outlet, args.exc_value or args.exc_type())
    with _ending_with(outlet):
        plugin = _made(entry, outlet)
        for call in _calls(sys.stdin.buffer):
            _answer(plugin, call)
            outlet.say(frame="done", call=call["call"])
    os._exit(0)  # threads of the plugin keep nobody


def _made(entry: str, outlet: PipeOutlet) -> GuestPlugin:
    module_name, _, class_name = entry.partition(":")
    module = importlib.import_module(f"{PACKAGE}.{module_name}")
    made = getattr(module, class_name)(outlet, Path.cwd())
    if not isinstance(made, GuestPlugin):
        raise PluginFailure(f"the plugin's entry {entry} is not a GuestPlugin")
    return made


def _answer(plugin: GuestPlugin, call: dict[str, Any]) -> None:
    match call["call"]:
        case "initialize":
            plugin.initialize(call["config"])
        case "event":
            plugin.on_event(Event(call["fact"], call["content"]))
        case "arm":
            plugin.arm()
        case "flush":
            plugin.flush()
        case "shutdown":
            plugin.shutdown()


def _calls(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """Every call of the agent, until it closes its end."""
    while header := stream.read(frames.HEADER.size):
        _kind, length = frames.decode_header(header)
        yield frames.decode_json(stream.read(length))


@contextmanager
def _ending_with(outlet: PipeOutlet) -> Iterator[None]:
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is its end, not ours
        _end(outlet, error)


def _end(outlet: PipeOutlet, error: BaseException) -> None:
    """The process ends, and says why."""
    match error:
        case PluginSkipped():
            outcome, reason = "skipped", str(error)
        case PluginFailure():
            outcome, reason = "failed", str(error)
        case MemoryError():
            outcome, reason = "crashed", "the plugin ran out of memory"
        case _:
            traceback.print_exception(error)
            outcome, reason = "crashed", f"{type(error).__name__}: {error}"
    try:
        sys.stderr.flush()
        outlet.say(frame="ended", outcome=outcome, reason=reason[:REASON_MAX_CHARS])
    finally:
        os._exit(1)


def _cut(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (piece := file.read(min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
