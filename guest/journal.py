"""The record of one lease: events in order, and the evidence behind them, kept until the machine is destroyed.

A watcher that comes back asks for what followed the position it saw last, so a lost connection loses nothing. Events
live in memory, evidence in one spool file per source; both are bounded, and what did not fit is marked.
"""

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from contracts.guest import agent_pb2 as pb
from guest import limits


@dataclass
class Source:
    """The byte stream of one source, as far as its limit lets it grow."""

    spool: BinaryIO
    limit_bytes: int
    frames: int = 0
    size_bytes: int = 0
    is_truncated: bool = False
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


@dataclass(frozen=True)
class _Piece:
    """Where an evidence event's bytes stand."""

    source: str
    sequence: int
    offset: int
    length: int
    is_truncated: bool = False
    plugin: pb.PluginEvidence | None = None


class Journal:
    """Appended to by the observers, read by one watcher at a time. Safe for threads."""

    def __init__(self, spool_dir: Path, *, lease_id: str, epoch: int, events_max: int = limits.EVENTS_MAX) -> None:
        self._spool_dir = spool_dir
        self._lease_id = lease_id
        self._epoch = epoch
        self._events_max = events_max
        self._entries: list[pb.Event | _Piece] = []
        self._sources: dict[str, Source] = {}
        self._events = 0
        self._log_lines = 0
        self._is_sealed = False
        self._changed = threading.Condition()

    @property
    def last_position(self) -> int:
        """The position of the newest event; 0 before the first."""
        with self._changed:
            return len(self._entries)

    def open_source(self, name: str, limit_bytes: int) -> None:
        """Evidence of that name is accepted from now on."""
        with self._changed:
            if name not in self._sources:
                spool = (self._spool_dir / f"{name}.spool").open("w+b", buffering=0)
                self._sources[name] = Source(spool=spool, limit_bytes=limit_bytes)

    def add(self, event: pb.Event, *, is_vital: bool = False) -> None:
        """The event is the newest one, unless the record is sealed, or full and the event not vital.

        Evidence does not count here: a program that starts endless processes must not blind the other observers.
        """
        with self._changed:
            self._events += 1
            if self._is_sealed or (self._events > self._events_max and not is_vital):
                return
            self._append(event)
            if self._events == self._events_max:
                self._append(pb.Event(log=pb.Log(event="events_are_no_longer_recorded")))

    def log(self, event: str, detail: str = "") -> None:
        """One line of the agent's log is in the record, up to a number of lines."""
        with self._changed:
            self._log_lines += 1
            if self._log_lines > limits.LOG_LINES_MAX:
                return
        self.add(pb.Event(log=pb.Log(event=event, detail=detail[: limits.LOG_DETAIL_MAX_CHARS])))

    def keep_alive(self, plugin: str, *, is_held: bool) -> None:
        """The plugin asks that the observation go on, or lets go; a full record has room for that, too."""
        self.add(pb.Event(keep_alive=pb.KeepAlive(plugin=plugin, is_held=is_held)), is_vital=True)

    def evidence(self, name: str, content: bytes) -> None:
        """The bytes follow those that the source gave before; beyond its limit they are dropped and that is marked."""
        for start in range(0, len(content), limits.FRAME_BYTES):
            self._evidence_frame(name, content[start : start + limits.FRAME_BYTES])

    def plugin_evidence(self, piece: pb.PluginEvidence, content: bytes) -> bool:
        """The piece of a bundled plugin is in the record, unless that is sealed or full; whether it is.

        Whose evidence it is stands in the piece. How much one plugin may say is bounded by who reads from it.
        """
        source_name = f"plugin-{piece.plugin}"
        self.open_source(source_name, limits.PLUGIN_EVIDENCE_MAX_BYTES)
        with self._changed:
            if self._is_sealed or len(self._entries) >= limits.ENTRIES_MAX:
                return False
            source = self._sources[source_name]
            source.spool.seek(source.size_bytes)
            source.spool.write(content)
            self._append(_Piece(source_name, source.frames, source.size_bytes, len(content), plugin=piece))
            source.frames += 1
            source.size_bytes += len(content)
        return True

    def seal(self) -> None:
        """The last event says that nothing follows."""
        with self._changed:
            if not self._is_sealed:
                self._append(pb.Event(sealed=pb.Sealed()))
                self._is_sealed = True

    def after(self, position: int, *, wait_s: float, count_max: int = 64) -> list[pb.Event]:
        """The events that follow a position, oldest first; waits that long for the first of them."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._entries) > position, timeout=wait_s)
            entries = self._entries[position : position + count_max]
        return [self._event(position + number, entry) for number, entry in enumerate(entries, start=1)]

    def is_read(self, position: int) -> bool:
        """Nothing will ever follow that position."""
        with self._changed:
            return self._is_sealed and position >= len(self._entries)

    def close(self) -> None:
        """The spool files are closed; nothing can be read any more."""
        with self._changed:
            for source in self._sources.values():
                source.spool.close()

    def summaries(self) -> list[pb.SourceSummary]:
        """What was recorded, per source."""
        with self._changed:
            return [
                pb.SourceSummary(
                    source=name,
                    frames=source.frames,
                    size_bytes=source.size_bytes,
                    sha256=source.digest.digest(),
                    is_truncated=source.is_truncated,
                )
                for name, source in sorted(self._sources.items())
                if not name.startswith("plugin-")
            ]

    def _evidence_frame(self, name: str, content: bytes) -> None:
        with self._changed:
            source = self._sources[name]
            if self._is_sealed or source.is_truncated:
                return
            is_full = len(self._entries) >= limits.ENTRIES_MAX
            kept = b"" if is_full else content[: source.limit_bytes - source.size_bytes]
            source.is_truncated = len(kept) < len(content)
            source.spool.seek(source.size_bytes)
            source.spool.write(kept)
            self._append(_Piece(name, source.frames, source.size_bytes, len(kept), source.is_truncated))
            source.digest.update(kept)
            source.frames += 1
            source.size_bytes += len(kept)

    def _append(self, entry: pb.Event | _Piece) -> None:
        self._entries.append(entry)
        self._changed.notify_all()

    def _event(self, position: int, entry: pb.Event | _Piece) -> pb.Event:
        event = pb.Event(lease_id=self._lease_id, epoch=self._epoch, position=position)
        if isinstance(entry, _Piece) and entry.plugin is not None:
            event.plugin_evidence.CopyFrom(entry.plugin)
            event.plugin_evidence.content = self._content(entry)
        elif isinstance(entry, _Piece):
            event.evidence.CopyFrom(self._read(entry))
        else:
            event.MergeFrom(entry)
        return event

    def _read(self, piece: _Piece) -> pb.Evidence:
        return pb.Evidence(
            source=piece.source,
            sequence=piece.sequence,
            content=self._content(piece),
            is_truncated=piece.is_truncated,
        )

    def _content(self, piece: _Piece) -> bytes:
        with self._changed:
            spool = self._sources[piece.source].spool
            spool.seek(piece.offset)
            return spool.read(piece.length)
