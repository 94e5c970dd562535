"""What came out of a guest while it was watched: files of evidence, the processes, and signs of life. Bounded."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from services.plugins.guest_pieces import PluginRecord
from services.plugins.ports_guest import (
    EvidenceFrame,
    GuestEvent,
    GuestLied,
    GuestLog,
    Heartbeat,
    KeepAlive,
    PluginPiece,
    ProcessExited,
    ProcessStarted,
    RecordSealed,
    SourceSummary,
    TreeEmpty,
)

SOURCES_MAX = 16
SOURCE_MAX_BYTES = 256 * 1024 * 1024
RECORD_MAX_BYTES = 512 * 1024 * 1024
PROCESS_EVENTS_MAX = 10_000
LOG_LINES_MAX = 500
_SOURCE = re.compile(r"[a-z][a-z0-9_-]{0,40}\Z")


@dataclass
class Source:
    """One byte stream of the guest, on its way to becoming a result."""

    path: Path
    stream: BinaryIO
    size_bytes: int = 0
    is_truncated: bool = False
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


@dataclass
class GuestRecord:
    """Takes in events in order. An event that was seen before (the watch was taken up again) changes nothing."""

    directory: Path
    heartbeat_at: float
    position: int = 0
    tree_empty_at: float | None = None
    first_exit: ProcessExited | None = None
    is_sealed: bool = False
    sources: dict[str, Source] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, str]] = field(default_factory=list)
    may_keep_alive: frozenset[str] = frozenset()
    holders: set[str] = field(default_factory=set)
    released_at: float | None = None
    plugins: dict[str, PluginRecord] = field(default_factory=dict)
    strange_pieces: int = 0
    gaps: int = 0
    differing: list[str] = field(default_factory=list)
    are_processes_truncated: bool = False
    processes_left_out: int = 0
    log_left_out: int = 0

    def take(self, event: GuestEvent, now: float) -> None:
        """The event is part of the record. Raises GuestLied, OSError."""
        self.heartbeat_at = now
        if isinstance(event, Heartbeat) or event.position <= self.position:
            return
        self.position = event.position
        match event:
            case KeepAlive():
                self._keep_alive(event, now)
            case PluginPiece():
                self._take_piece(event)
            case _:
                self._take_of_sample(event, now)

    def _take_of_sample(self, event: GuestEvent, now: float) -> None:
        match event:
            case ProcessStarted():
                self.tree_empty_at = None
                self._process("started", pid=event.pid, is_first=event.is_first)
            case ProcessExited():
                self._exited(event)
            case TreeEmpty():
                self.tree_empty_at = now
            case EvidenceFrame():
                self._write(event)
            case GuestLog():
                if len(self.log) < LOG_LINES_MAX:
                    self.log.append({"event": event.event, "detail": event.detail})
                else:
                    self.log_left_out += 1
            case RecordSealed():
                self.is_sealed = True

    def compare(self, summaries: tuple[SourceSummary, ...]) -> None:
        """A source of which less came than the agent recorded is truncated; one that came whole and other is named."""
        for summary in summaries:
            source = self.sources.get(summary.source)
            if source is None:
                continue
            if summary.is_truncated or source.size_bytes < summary.size_bytes:
                source.is_truncated = True
            elif summary.sha256 != source.digest.hexdigest():
                self.differing.append(summary.source)

    def cut(self) -> None:
        """The record ended before its end: whatever came is less than there was."""
        self.are_processes_truncated = True
        for source in self.sources.values():
            source.is_truncated = True
        for plugin in self.plugins.values():
            plugin.cut()

    def close(self) -> None:
        """The files of evidence are complete on this host's disk."""
        for source in self.sources.values():
            source.stream.close()
        for plugin in self.plugins.values():
            plugin.close()

    def write_summary(self, path: Path) -> None:
        """What the agent said beside the evidence, as one JSON document."""
        document = {
            "processes": self.processes,
            "processes_left_out": self.processes_left_out,
            "log": self.log,
            "log_left_out": self.log_left_out,
            "gaps": self.gaps,
            "plugins": {name: plugin.summary() for name, plugin in sorted(self.plugins.items())},
            "is_truncated": self.are_processes_truncated,
        }
        path.write_text(json.dumps(document), encoding="utf-8")

    def _exited(self, event: ProcessExited) -> None:
        if event.is_first and self.first_exit is None:
            self.first_exit = event
        self._process("exited", pid=event.pid, is_first=event.is_first, exit_code=event.exit_code, signal=event.signal)

    def _process(self, what: str, **fields: object) -> None:
        if len(self.processes) < PROCESS_EVENTS_MAX:
            self.processes.append({"event": what, **fields})
        else:
            self.are_processes_truncated = True
            self.processes_left_out += 1

    def _keep_alive(self, event: KeepAlive, now: float) -> None:
        """Only plugins whose manifest says so are heeded; the guest may claim what it likes of others."""
        if event.plugin not in self.may_keep_alive:
            return
        if event.is_held:
            self.holders.add(event.plugin)
        elif event.plugin in self.holders:
            self.holders.discard(event.plugin)
            self.released_at = now

    def _take_piece(self, piece: PluginPiece) -> None:
        """Only the plan's bundled plugins have evidence; what claims to be another's is counted."""
        plugin = self.plugins.get(piece.plugin)
        if plugin is None:
            self.strange_pieces += 1
        else:
            plugin.take(piece)

    def _write(self, frame: EvidenceFrame) -> None:
        source = self.sources.get(frame.source) or self._open(frame.source)
        self.gaps += frame.gap_frames
        source.is_truncated |= frame.is_truncated or frame.gap_frames > 0
        total = sum(one.size_bytes for one in self.sources.values())
        kept = frame.content[: min(SOURCE_MAX_BYTES - source.size_bytes, RECORD_MAX_BYTES - total)]
        source.is_truncated |= len(kept) < len(frame.content)
        source.size_bytes += source.stream.write(kept)
        source.digest.update(kept)

    def _open(self, name: str) -> Source:
        if not _SOURCE.match(name) or len(self.sources) >= SOURCES_MAX:
            raise GuestLied("the guest names more sources of evidence than there are")
        path = self.directory / f"source-{len(self.sources):02d}"
        self.sources[name] = Source(path, path.open("xb"))
        return self.sources[name]
