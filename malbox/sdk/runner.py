"""A run inside the sandbox: the plugin's code, the context that it gets, and the frames that carry what it emits.

Whatever the plugin raises becomes an outcome; a process that ends without one crashed.
"""

import importlib
import importlib.util
import sys
import traceback
import types
from pathlib import Path
from typing import Any, BinaryIO

from malbox.sdk import frames
from malbox.sdk.context import Context, Input, PluginFailure, PluginFunction, PluginSkipped

PACKAGE = "malbox_plugin"
REASON_MAX_CHARS = 1000
LOG_KEYS_MAX = 32
LOG_VALUE_MAX_CHARS = 2000


class PipeEmitter:
    """Writes frames to the host as the plugin emits."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def result(self, name: str, kind: str, media_type: str, content: bytes | Path) -> None:
        """The announcement and then the bytes. Raises OSError."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        announced = {
            "frame": "result",
            "name": name,
            "kind": kind,
            "media_type": media_type,
            "size_bytes": size,
        }
        self._stream.write(frames.encode_json(announced))
        if isinstance(content, bytes):
            self._write_bytes(content)
        else:
            self._write_file(content, size)
        self._stream.flush()

    def log(self, event: str, keys: dict[str, Any]) -> None:
        """One bounded line."""
        few = list(keys.items())[:LOG_KEYS_MAX]
        short = {key[:64]: str(value)[:LOG_VALUE_MAX_CHARS] for key, value in few}
        self._stream.write(frames.encode_json({"frame": "log", "event": event[:200], "keys": short}))
        self._stream.flush()

    def outcome(self, outcome: str, reason: str) -> None:
        """The last frame."""
        self._stream.write(
            frames.encode_json({"frame": "outcome", "outcome": outcome, "reason": reason[:REASON_MAX_CHARS]})
        )
        self._stream.flush()

    def _write_bytes(self, content: bytes) -> None:
        for start in range(0, len(content), frames.CHUNK_BYTES):
            chunk = content[start : start + frames.CHUNK_BYTES]
            self._stream.write(frames.encode(frames.BYTES_KIND, chunk))

    def _write_file(self, path: Path, size: int) -> None:
        left = size
        with path.open("rb") as source:
            while left:
                chunk = source.read(min(frames.CHUNK_BYTES, left))
                if not chunk:
                    raise OSError(f"{path.name} became shorter while it was emitted")
                self._stream.write(frames.encode(frames.BYTES_KIND, chunk))
                left -= len(chunk)


def load_plugin(folder: Path, entry: str) -> PluginFunction:
    """The function that `entry` (`module:function`) names; the folder is a package, so `from .other import x` works."""
    module_name, _, function_name = entry.partition(":")
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    module = importlib.import_module(f"{PACKAGE}.{module_name}")
    function = getattr(module, function_name, None)
    if not callable(function):
        raise PluginFailure(f"the plugin's entry {entry} is not a function")
    found: PluginFunction = function
    return found


def run_once(function: PluginFunction, request: dict[str, Any], emitter: PipeEmitter) -> None:
    """The plugin ran; the outcome frame is written."""
    try:
        function(_context(request, emitter))
    except PluginSkipped as reason:
        emitter.outcome("skipped", str(reason))
    except PluginFailure as reason:
        emitter.outcome("failed", str(reason))
    except MemoryError:
        emitter.outcome("crashed", "the plugin ran out of memory")
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its crash, not ours
        traceback.print_exc()
        emitter.outcome("crashed", f"{type(error).__name__}: {error}")
    else:
        emitter.outcome("completed", "")


def _context(request: dict[str, Any], emitter: PipeEmitter) -> Context:
    inputs = tuple(Input(**{**one, "path": Path(one["path"])}) for one in request["inputs"])
    kept = request.get("kept")
    return Context(
        sample=Path(request["sample"]),
        sample_name=request["sample_name"],
        scratch=Path(request["scratch"]),
        emitter=emitter,
        config=request["config"],
        inputs=inputs,
        kept=None if kept is None else Path(kept),
    )
