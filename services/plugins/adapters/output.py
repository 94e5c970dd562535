"""Reads what a sandboxed plugin writes, as data to be checked: frames in, spooled results out."""

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson

from contracts.limits import ARTIFACT_MAX_BYTES, ARTIFACTS_PER_RUN_MAX, REASON_MAX_CHARS
from contracts.plugins import RunOutcome
from malbox.sdk import frames
from malbox.sdk.manifest import Manifest
from services.plugins.adapters.pipe_reader import PipeReader
from services.plugins.errors import OutputRefused
from services.plugins.ports import SpooledResult

LOG_MAX_BYTES = 64 * 1024
CUT_LINE_MAX_BYTES = 80
JSON_RESULT_MAX_BYTES = 16 * 1024 * 1024
CHECKED_AT_ONCE_MAX_BYTES = 256 * 1024  # parsed in a millisecond; a thread would take longer to begin
SHAPED_AT_ONCE_MAX_BYTES = 4 * 1024  # the same, where a schema is checked too
FRAMES_MAX = 100_000
SAYABLE_OUTCOMES = ("completed", "failed", "crashed", "skipped")

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}(/[A-Za-z0-9][A-Za-z0-9 ._+-]{0,120})?\Z")
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-zA-Z0-9.+-]{1,80}\Z")


@dataclass
class Output:
    """What came so far. `outcome` is None until the plugin's process said how it ended."""

    manifest: Manifest
    spool_dir: Path
    total_max_bytes: int = 4 * ARTIFACT_MAX_BYTES
    results: list[SpooledResult] = field(default_factory=list)
    log: bytearray = field(default_factory=bytearray)
    outcome: RunOutcome | None = None
    reason: str = ""
    _names: set[str] = field(default_factory=set)
    _total_bytes: int = 0
    _log_left_out_bytes: int = 0

    @property
    def told_log(self) -> bytes:
        """The log; one that was cut ends with how much is left out."""
        left_out = self._log_left_out_bytes
        return bytes(self.log) + (f"\n[{left_out} bytes more of log were not kept]\n".encode() if left_out else b"")

    async def read(self, stream: PipeReader) -> None:
        """Every frame up to the end of the stream is taken in. Raises OutputRefused at the first that may not be."""
        try:
            for _ in range(FRAMES_MAX):
                header = await stream.read(frames.HEADER.size)
                if not header:
                    return
                header += await _rest(stream, frames.HEADER.size - len(header))
                await self._take(stream, header)
        except frames.FrameRefused as error:
            raise OutputRefused(str(error)) from error
        except asyncio.IncompleteReadError as error:
            raise OutputRefused("the output ended inside a frame") from error
        raise OutputRefused(f"more than {FRAMES_MAX} frames")

    def append_log(self, content: bytes) -> None:
        """Kept up to the limit, and counted beyond. Raises OutputRefused far over it: a flood is no log."""
        kept = content[: LOG_MAX_BYTES - CUT_LINE_MAX_BYTES - len(self.log)]
        self.log += kept
        self._log_left_out_bytes += len(content) - len(kept)
        self._total_bytes += len(content)
        if self._total_bytes > self.total_max_bytes:
            raise OutputRefused(f"more than {self.total_max_bytes} bytes of output")

    async def _take(self, stream: PipeReader, header: bytes) -> None:
        kind, length = frames.decode_header(header)
        if kind != frames.JSON_KIND:
            raise OutputRefused("bytes that no result announced")
        said = frames.decode_json(await stream.readexactly(length))
        if self.outcome is not None:
            raise OutputRefused("output after the outcome")
        match said["frame"]:
            case "log":
                self.append_log(_log_line(said))
            case "result":
                await self._take_result(stream, said)
            case "outcome":
                self._take_outcome(said)
            case _:
                raise OutputRefused("unknown frame")

    def _take_outcome(self, said: dict[str, Any]) -> None:
        outcome, reason = said.get("outcome"), said.get("reason")
        if outcome not in SAYABLE_OUTCOMES or not isinstance(reason, str):
            raise OutputRefused("an outcome that is none")
        self.outcome, self.reason = cast("RunOutcome", outcome), storable(reason)[:REASON_MAX_CHARS]

    async def _take_result(self, stream: PipeReader, said: dict[str, Any]) -> None:
        name, kind, media_type, size = self._checked(said)
        path = self.spool_dir / f"{len(self.results):04d}"
        await self._spool(stream, path, size)
        at_once = SHAPED_AT_ONCE_MAX_BYTES if self.manifest.has_schema(name) else CHECKED_AT_ONCE_MAX_BYTES
        if kind == "json" and size <= at_once:
            _check_json(path, name, self.manifest)
        elif kind == "json":
            await asyncio.to_thread(_check_json, path, name, self.manifest)
        self._names.add(name)
        self.results.append(SpooledResult(name=name, kind=kind, media_type=media_type, path=path, size_bytes=size))

    def _checked(self, said: dict[str, Any]) -> tuple[str, str, str, int]:
        name, kind, media_type, size = (said.get(key) for key in ("name", "kind", "media_type", "size_bytes"))
        if not isinstance(name, str) or not _NAME.match(name):
            raise OutputRefused("a result's name is not one")
        if not isinstance(kind, str) or not self.manifest.declares(name, kind):
            raise OutputRefused(f"result {name} is not declared in the manifest")
        if not isinstance(media_type, str) or not _MEDIA_TYPE.match(media_type):
            raise OutputRefused(f"result {name} has no proper media type")
        if name in self._names:
            raise OutputRefused(f"result {name} came twice")
        if len(self.results) >= ARTIFACTS_PER_RUN_MAX:
            raise OutputRefused(f"more than {ARTIFACTS_PER_RUN_MAX} results")
        limit = JSON_RESULT_MAX_BYTES if kind == "json" else self.total_max_bytes - self._total_bytes
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= limit:
            raise OutputRefused(f"result {name} is over the limit of {limit} bytes")
        return name, kind, media_type, size

    async def _spool(self, stream: PipeReader, path: Path, size: int) -> None:
        left = size
        with path.open("xb") as spool:
            while left:
                kind, length = frames.decode_header(await stream.readexactly(frames.HEADER.size))
                if kind != frames.BYTES_KIND or not 0 < length <= left:
                    raise OutputRefused("a result's bytes are not as many as announced")
                spool.write(await stream.readexactly(length))
                left -= length
        self._total_bytes += size


def storable(text: str) -> str:
    """The text without what no database stores and no message carries: NUL, and halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _log_line(said: dict[str, Any]) -> bytes:
    """In ASCII: what came as JSON goes as JSON, whatever numbers and characters are in it. Raises OutputRefused."""
    try:
        line = json.dumps({"event": said.get("event"), "keys": said.get("keys")}, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise OutputRefused("a line of the log that is none") from error
    return line.encode() + b"\n"


async def _rest(stream: PipeReader, count: int) -> bytes:
    return await stream.readexactly(count) if count else b""


def _check_json(path: Path, name: str, manifest: Manifest) -> None:
    content = path.read_bytes()
    try:
        orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise OutputRefused(f"result {name} is not JSON") from error
    fault = manifest.fault_of(name, content)
    if fault is not None:
        raise OutputRefused(fault)
