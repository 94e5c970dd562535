"""What one guest plugin emitted, as it arrives: checked against its manifest and its own count, written, and bounded.

Nothing that came is changed later: a record or a piece is appended to its result, or is counted as missing. A plugin
that breaks a rule is believed no more; what it emitted before that stays.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson

from contracts.limits import ARTIFACTS_PER_RUN_MAX
from malbox.sdk.manifest import Manifest
from services.plugins.ports_guest import PluginPiece
from services.plugins.record import Evidence

JSON_RESULT_MAX_BYTES = 16 * 1024 * 1024
PIECE_MAX_BYTES = 64 * 1024
COUNT_MAX = 1_000_000_000
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}(/[A-Za-z0-9][A-Za-z0-9 ._+-]{0,120})?\Z")
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-zA-Z0-9.+-]{1,80}\Z")


class PieceRefused(Exception):
    """The piece cannot be one of this plugin; the message says why."""


@dataclass
class Growing:
    """One result, on its way to being whole."""

    kind: str
    media_type: str
    path: Path
    stream: BinaryIO
    size_bytes: int = 0
    is_whole: bool = False
    is_truncated: bool = False


@dataclass
class PluginRecord:
    """Takes in the pieces of one plugin, in the order in which the guest recorded them."""

    manifest: Manifest
    directory: Path
    results: dict[str, Growing] = field(default_factory=dict)
    fault: str = ""
    pieces: int = 0
    gaps: int = 0
    repeats: int = 0
    _next: int = 0
    _is_closed: bool = False

    def take(self, piece: PluginPiece) -> None:
        """The piece is part of its result, unless it came before or the plugin is believed no more. Raises OSError."""
        self.pieces += 1
        if self.fault:
            return
        if piece.sequence < self._next:
            self.repeats += 1
            return
        self._miss(piece.sequence - self._next)
        self._next = piece.sequence + 1
        try:
            self._append(piece)
        except PieceRefused as refused:
            self.fault = str(refused)

    def expect(self, pieces: int) -> None:
        """The guest recorded so many: what did not come of them is missing."""
        self._miss(pieces - self.pieces)

    def close(self) -> None:
        """Every result is complete on this host's disk; one whose last piece never came is marked. Safe to repeat."""
        for result in self.results.values() if not self._is_closed else ():
            if result.kind == "json":
                result.stream.write(b"]")
            result.is_truncated |= not result.is_whole
            result.stream.close()
        self._is_closed = True

    def evidence(self) -> list[Evidence]:
        """The results, to be stored."""
        return [self._evidence(name, one) for name, one in self.results.items()]

    def summary(self) -> dict[str, int]:
        """For the analyst: how much came, and how much did not."""
        return {"pieces": self.pieces, "gaps": self.gaps, "repeats": self.repeats}

    def cut(self) -> None:
        """The record ended before its end: whatever came is less than there was."""
        for result in self.results.values():
            result.is_truncated = True

    def _evidence(self, name: str, one: Growing) -> Evidence:
        title = self.manifest.title_of(name)
        return Evidence(name, one.kind, one.media_type, one.path, is_truncated=one.is_truncated, title=title)

    def _miss(self, count: int) -> None:
        if count > 0:
            self.gaps = min(self.gaps + count, COUNT_MAX)
            self.cut()

    def _append(self, piece: PluginPiece) -> None:
        result = self.results.get(piece.name) or self._open(piece)
        if (result.kind, result.media_type) != (piece.kind, piece.media_type):
            raise PieceRefused(f"result {piece.name} is of two kinds")
        if len(piece.content) > PIECE_MAX_BYTES:
            raise PieceRefused(f"a piece of {len(piece.content)} bytes; the limit is {PIECE_MAX_BYTES}")
        if piece.kind == "json":
            self._append_record(result, piece)
        elif result.is_whole:
            raise PieceRefused(f"result {piece.name} goes on after its end")
        else:
            result.size_bytes += result.stream.write(piece.content)
            result.is_whole = piece.is_last

    def _append_record(self, result: Growing, piece: PluginPiece) -> None:
        if result.size_bytes + len(piece.content) > JSON_RESULT_MAX_BYTES:
            result.is_truncated = True
            return
        try:
            orjson.loads(piece.content)
        except orjson.JSONDecodeError as error:
            raise PieceRefused(f"a record of {piece.name} is not JSON") from error
        fault = self.manifest.fault_of(piece.name, piece.content, is_record=True)
        if fault is not None:
            raise PieceRefused(fault)
        result.size_bytes += result.stream.write(b"," if result.size_bytes > 1 else b"")
        result.size_bytes += result.stream.write(piece.content)

    def _open(self, piece: PluginPiece) -> Growing:
        if not _NAME.match(piece.name) or not self.manifest.declares(piece.name, piece.kind):
            raise PieceRefused(f"result {piece.name[:60]} is not declared in the manifest")
        if not _MEDIA_TYPE.match(piece.media_type):
            raise PieceRefused(f"result {piece.name} has no proper media type")
        if len(self.results) >= ARTIFACTS_PER_RUN_MAX:
            raise PieceRefused(f"more than {ARTIFACTS_PER_RUN_MAX} results")
        path = self.directory / f"{self.manifest.plugin.name}-{len(self.results):03d}"
        is_json = piece.kind == "json"
        result = Growing(piece.kind, piece.media_type, path, path.open("xb"), is_whole=is_json)
        result.is_truncated = self.gaps > 0  # what never came may have been its beginning
        if is_json:
            result.size_bytes += result.stream.write(b"[")
        self.results[piece.name] = result
        return result
