"""Turns the agent's stream of events into typed ones that can be believed as far as their bounds go.

An event of another lease, out of order, or impossible is dropped and counted; too many of those, too many bytes, or too
many events end the stream as a lie. Silence ends it as a loss.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable
from typing import TypeVar

from contracts.guest import agent_pb2 as pb
from services.plugins.ports_guest import (
    EvidenceFrame,
    GuestEvent,
    GuestLied,
    GuestLog,
    GuestUnreachable,
    Heartbeat,
    KeepAlive,
    PluginPiece,
    ProcessExited,
    ProcessStarted,
    RecordSealed,
    TreeEmpty,
)

EVENTS_MAX = 400_000
SOURCES_MAX = 8
SOURCE_MAX_BYTES = 256 * 1024 * 1024
FRAME_MAX_BYTES = 256 * 1024
REFUSED_MAX = 1000
BEATS_PER_WATCH_MAX = 20_000
BURST_MAX_BYTES = 1024 * 1024
BURST_PAUSE_S = 0.02
EVENT_COST_BYTES = 16 * 1024  # what an event without content costs here, as evidence
PLUGINS_MAX = 16
PLUGIN_MAX_BYTES = 128 * 1024 * 1024
_SOURCE = re.compile(r"[a-z][a-z0-9_-]{0,40}\Z")
_PID_MAX = 1 << 22
_EXIT_CODE_MAX = 255
_SIGNAL_MAX = 64
_TEXT_MAX_CHARS = 200
_LOG_MAX_CHARS = 1000

Message = TypeVar("Message")


def bounded_text(value: str, max_chars: int = _TEXT_MAX_CHARS) -> str:
    """At most so many characters, none of them a control character."""
    return "".join(char for char in value[:max_chars] if char.isprintable())


def legible(message: Message | None) -> Message:
    """The message. gRPC hands out None for bytes that are none. Raises GuestLied."""
    if message is None:
        raise GuestLied("the agent breaks the protocol: what it sent is no message")
    return message


class EventReader:
    """What is known of one lease's stream, over every watch of it."""

    def __init__(self, *, lease_id: str, epoch: int) -> None:
        self._lease_id = lease_id
        self._epoch = epoch
        self._position = 0
        self._beats = 0
        self._is_resumed = False
        self._next_sequence: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._plugin_sizes: dict[str, int] = {}
        self._ended: set[str] = set()
        self.refused = 0

    def start(self, after_position: int) -> None:
        """A watch begins behind that position; what it brings again was not seen before."""
        if after_position != self._position:
            self._next_sequence.clear()
            self._sizes.clear()
            self._plugin_sizes.clear()
            self._ended.clear()
            self._is_resumed = after_position > 0
        self._position = after_position
        self._beats = 0

    async def read(self, stream: AsyncIterable[pb.Event], *, silence_max_s: float) -> AsyncGenerator[GuestEvent, None]:
        """The events that can be believed. Raises GuestUnreachable, GuestLied."""
        iterator, load = aiter(stream), 0
        while True:  # bounded by the number of events and of refusals
            if load > BURST_MAX_BYTES:  # one guest that floods must not keep this service from all the others
                load = 0
                await asyncio.sleep(BURST_PAUSE_S)
            try:
                async with asyncio.timeout(silence_max_s):
                    raw = legible(await anext(iterator))
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise GuestUnreachable(f"no heartbeat for {silence_max_s:.0f} s") from error
            load += EVENT_COST_BYTES + len(raw.evidence.content) + len(raw.plugin_evidence.content)
            event = self.believe(raw)
            if event is not None:
                yield event

    def believe(self, raw: pb.Event) -> GuestEvent | None:
        """The event as a typed one, or None when it is refused. Raises GuestLied beyond a limit."""
        if (raw.lease_id, raw.epoch) != (self._lease_id, self._epoch):
            self._refuse()
            return None
        if raw.WhichOneof("what") == "heartbeat":
            return self._heartbeat(raw.heartbeat)
        if raw.position != self._position + 1:
            self._refuse()
            return None
        if raw.position > EVENTS_MAX:
            raise GuestLied(f"more than {EVENTS_MAX} events")
        self._position = raw.position
        event = self._typed(raw)
        if event is None:
            self._refuse()
        return event

    def _typed(self, raw: pb.Event) -> GuestEvent | None:
        position = raw.position
        match raw.WhichOneof("what"):
            case "process_started" if _is_pid(raw.process_started.pid):
                started = raw.process_started
                return ProcessStarted(position, started.pid, started.is_first)
            case "process_exited" if _is_pid(raw.process_exited.pid):
                return self._exited(position, raw.process_exited)
            case "evidence":
                return self._evidence(position, raw.evidence)
            case "keep_alive" if _SOURCE.match(raw.keep_alive.plugin):
                return KeepAlive(position, raw.keep_alive.plugin, raw.keep_alive.is_held)
            case "plugin_evidence" if _SOURCE.match(raw.plugin_evidence.plugin):
                return self._plugin_piece(position, raw.plugin_evidence)
            case _:
                return _plain(raw)

    def _plugin_piece(self, position: int, piece: pb.PluginEvidence) -> GuestEvent | None:
        """Whether its words and its count are the plugin's is judged by who knows the plugin."""
        is_new = piece.plugin not in self._plugin_sizes
        if len(piece.content) > FRAME_MAX_BYTES or (is_new and len(self._plugin_sizes) >= PLUGINS_MAX):
            return None
        size = self._plugin_sizes.get(piece.plugin, 0) + len(piece.content)
        if size > PLUGIN_MAX_BYTES:
            raise GuestLied(f"more than {PLUGIN_MAX_BYTES} bytes of {piece.plugin}")
        self._plugin_sizes[piece.plugin] = size
        return PluginPiece(
            position,
            piece.plugin,
            piece.sequence,
            bounded_text(piece.name),
            bounded_text(piece.kind),
            bounded_text(piece.media_type),
            piece.content,
            piece.is_last,
        )

    def _heartbeat(self, heartbeat: pb.Heartbeat) -> GuestEvent:
        self._beats += 1
        if self._beats > BEATS_PER_WATCH_MAX:
            raise GuestLied(f"more than {BEATS_PER_WATCH_MAX} heartbeats")
        return Heartbeat(beat=heartbeat.beat)

    def _exited(self, position: int, exited: pb.ProcessExited) -> GuestEvent:
        code = exited.exit_code if exited.HasField("exit_code") else None
        signal = exited.signal if exited.HasField("signal") else None
        return ProcessExited(
            position,
            exited.pid,
            exited.is_first,
            exit_code=code if code is not None and 0 <= code <= _EXIT_CODE_MAX else None,
            signal=signal if signal is not None and 0 < signal <= _SIGNAL_MAX else None,
        )

    def _evidence(self, position: int, evidence: pb.Evidence) -> GuestEvent | None:
        source, expected = evidence.source, self._next_sequence.get(evidence.source, 0)
        is_new = source not in self._sizes
        if not _SOURCE.match(source) or (is_new and len(self._sizes) >= SOURCES_MAX):
            return None
        if len(evidence.content) > FRAME_MAX_BYTES or source in self._ended:
            return None
        if not is_new and evidence.sequence < expected:
            return None
        size = self._sizes.get(source, 0) + len(evidence.content)
        if size > SOURCE_MAX_BYTES:
            raise GuestLied(f"more than {SOURCE_MAX_BYTES} bytes of {source}")
        self._sizes[source] = size
        self._next_sequence[source] = evidence.sequence + 1
        if evidence.is_truncated:
            self._ended.add(source)
        # After a resumption, a source that starts in the middle is one whose beginning an earlier watch has seen.
        gap = 0 if is_new and self._is_resumed else evidence.sequence - expected
        return EvidenceFrame(
            position, source, evidence.sequence, evidence.content, evidence.is_truncated, gap_frames=gap
        )

    def _refuse(self) -> None:
        self.refused += 1
        if self.refused > REFUSED_MAX:
            raise GuestLied(f"more than {REFUSED_MAX} events that cannot be believed")


def _plain(raw: pb.Event) -> GuestEvent | None:
    """An event that is known by its kind alone."""
    match raw.WhichOneof("what"):
        case "tree_empty":
            return TreeEmpty(raw.position)
        case "sealed":
            return RecordSealed(raw.position)
        case "log":
            log = raw.log
            return GuestLog(raw.position, bounded_text(log.event), bounded_text(log.detail, _LOG_MAX_CHARS))
        case _:
            return None


def _is_pid(pid: int) -> bool:
    return 0 < pid <= _PID_MAX
