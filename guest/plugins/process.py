"""One bundled plugin and its process: called, told, read, bounded, and ended, and how that came about.

A thread of its own takes calls and facts to the plugin one after another, each with a deadline; one reads what it emits
into the journal; one keeps its log. Whatever ends it first is its outcome: nobody waits for it after that.
"""

import contextlib
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from contracts.guest import agent_pb2 as pb
from guest import limits
from guest.journal import Journal
from guest.platforms import Platform, PlatformRefused, PluginProgram
from guest.plugins import frames

ENDED_BY_ITSELF = ("failed", "crashed", "skipped")
READER_END_TIMEOUT_S = 5.0
SEQUENCE_MAX = 1 << 62


@dataclass
class Call:
    """Something that the plugin is to answer."""

    name: str
    timeout_s: float
    fields: dict[str, Any] = field(default_factory=dict)
    answered: threading.Event = field(default_factory=threading.Event)


class PluginProcess:
    """One plugin of the lease. Calls may be repeated: each is made once."""

    def __init__(self, platform: Platform, program: PluginProgram, journal: Journal, *, timeout_s: float) -> None:
        self._platform = platform
        self._program = program
        self._journal = journal
        self._timeout_s = timeout_s
        self._calls: queue.Queue[Call | None] = queue.Queue()
        self._current: Call | None = None
        self._made: dict[str, Call] = {}
        self._told: set[str] = set()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._log = bytearray()
        self._log_left_out_bytes = 0
        self._pieces = 0
        self._evidence_bytes = 0
        self._started_at = time.monotonic()
        self._ended_at = 0.0
        self._outcome, self._reason = "", ""

    @property
    def name(self) -> str:
        """The plugin's."""
        return self._program.name

    def initialize(self, config: dict[str, object]) -> None:
        """Ready to arm, or over."""
        with self._lock:
            is_new = self._process is None and not self._over.is_set()
            if is_new:
                self._start()
        self._call("initialize", config=config)

    def arm(self) -> None:
        """Observing, or over."""
        self._call("arm")

    def flush(self) -> None:
        """Everything that it saw is in the journal, or it is over."""
        self._call("flush")

    def tell(self, message_id: str, fact: str, content: object) -> bool:
        """The fact is on its way to it, once; whether it is. It is not when the plugin is over, or too slow."""
        with self._lock:
            if self._over.is_set() or self._calls.qsize() >= limits.PLUGIN_FACTS_WAITING_MAX:
                return False
            if message_id not in self._told:
                self._told.add(message_id)
                self._calls.put(Call("event", self._timeout_s, {"fact": fact, "content": content}))
        return True

    def end(self) -> pb.ShutdownPluginReply:
        """Nothing of it is left; how it ended."""
        self._call("shutdown")
        self._be_over("completed", "")
        for thread in self._threads:
            thread.join(timeout=READER_END_TIMEOUT_S)
        return pb.ShutdownPluginReply(
            outcome=self._outcome,
            reason=self._reason,
            pieces=self._pieces,
            log=self._told_log(),
            duration_ms=int((self._ended_at - self._started_at) * 1000),
        )

    def _start(self) -> None:
        try:
            process = self._platform.start_plugin(self._program)
        except PlatformRefused as error:
            self._be_over("failed", str(error))
            return
        self._process = process
        works = (self._deliver, process.stdin), (self._read, process.stdout), (self._keep_log, process.stderr)
        for work, stream in works:
            thread = threading.Thread(target=_closing, args=(work, stream), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _call(self, name: str, **fields: object) -> None:
        """The plugin answered the call, which is made once, or is over."""
        with self._lock:
            call = self._made.get(name)
            if call is None:
                start_s = limits.PLUGIN_START_S if name == "initialize" else 0
                call = self._made[name] = Call(name, self._timeout_s + start_s, dict(fields))
                self._calls.put(call)
            if self._over.is_set():
                return
        if not call.answered.wait(call.timeout_s):
            self._be_late(call)

    def _deliver(self, stream: IO[bytes]) -> None:
        """Calls reach the plugin one after another, until it is over."""
        while (call := self._calls.get()) is not None and not self._over.is_set():
            self._current = call
            try:
                stream.write(frames.encode({"frame": "call", "call": call.name, **call.fields}))
                stream.flush()
            except OSError:
                return  # its end is seen by who reads from it
            if not call.answered.wait(call.timeout_s):
                self._be_late(call)

    def _be_late(self, call: Call) -> None:
        """Over, unless it answered in the last moment. Who waits longest is not always the one to blame."""
        if not call.answered.is_set():
            late = self._current or call
            name = "on_event" if late.name == "event" else late.name
            self._be_over("timed_out", f"{name} took longer than {late.timeout_s:.0f} s")

    def _read(self, stream: IO[bytes]) -> None:
        """Everything that the plugin writes was taken, until it ends or breaks a rule."""
        try:
            while (said := frames.read_json(stream)) is not None:  # type: ignore[arg-type]  # a pipe is binary
                self._take(said, stream)
        except frames.FrameRefused as error:
            self._be_over("failed", f"it broke the protocol: {error}")
        except (OSError, ValueError):
            self._be_over("crashed", "its output broke off")
        else:
            self._be_over("crashed", self._words_of_exit())

    def _take(self, said: dict[str, Any], stream: IO[bytes]) -> None:
        match said.get("frame"):
            case "evidence":
                self._take_evidence(said, frames.read_bytes(stream))  # type: ignore[arg-type]
            case "done":
                current = self._current
                if current is None or current.answered.is_set() or said.get("call") != current.name:
                    raise frames.FrameRefused("it answered what it was not asked")
                current.answered.set()
            case "ended" if said.get("outcome") in ENDED_BY_ITSELF:
                words = str(said.get("reason"))[: limits.LOG_DETAIL_MAX_CHARS]
                self._be_over(
                    str(said["outcome"]), words.encode("utf-8", "replace").decode()
                )  # JSON has half characters
            case _:
                raise frames.FrameRefused("a frame is of no known kind")

    def _take_evidence(self, said: dict[str, Any], content: bytes) -> None:
        sequence, is_last = said.get("sequence"), said.get("is_last")
        words: dict[str, Any] = {key: said.get(key) for key in ("name", "kind", "media_type")}
        if type(sequence) is not int or not 0 <= sequence <= SEQUENCE_MAX or type(is_last) is not bool:
            raise frames.FrameRefused("evidence without a sequence or an end")
        if not all(isinstance(word, str) and len(word) <= limits.SAMPLE_NAME_MAX_BYTES for word in words.values()):
            raise frames.FrameRefused("evidence without a name, a kind or a media type")
        self._evidence_bytes += len(content)
        is_flood = self._evidence_bytes > limits.PLUGIN_EVIDENCE_MAX_BYTES or self._pieces >= limits.PLUGIN_PIECES_MAX
        if is_flood:
            mib = limits.PLUGIN_EVIDENCE_MAX_BYTES >> 20
            self._be_over("failed", f"more than {mib} MiB or {limits.PLUGIN_PIECES_MAX} pieces of evidence")
        if self._over.is_set():
            return
        piece = pb.PluginEvidence(plugin=self.name, sequence=sequence, is_last=is_last, **words)
        self._pieces += self._journal.plugin_evidence(piece, content)

    def _keep_log(self, stream: IO[bytes]) -> None:
        """What it writes to its standard error, up to the limit; the rest is read and counted."""
        while piece := stream.read1(limits.FRAME_BYTES):  # type: ignore[attr-defined]  # a pipe is buffered
            kept = piece[: limits.PLUGIN_LOG_MAX_BYTES - limits.PLUGIN_LOG_CUT_LINE_MAX_BYTES - len(self._log)]
            self._log += kept
            self._log_left_out_bytes += len(piece) - len(kept)

    def _told_log(self) -> bytes:
        """The log; one that was cut ends with how much is left out."""
        left_out = self._log_left_out_bytes
        return bytes(self._log) + (f"\n[{left_out} bytes more of log were not kept]\n".encode() if left_out else b"")

    def _words_of_exit(self) -> str:
        if self._process is None:
            return "it was never started"
        try:
            code = self._process.wait(READER_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"it was ended by signal {-code}" if code < 0 else f"it ended by itself with {code}"

    def _be_over(self, outcome: str, reason: str) -> None:
        """The first reason to end it is the reason; its processes are gone, and nobody waits for it any more."""
        with self._lock:
            if self._over.is_set():
                return
            self._outcome, self._reason = outcome, reason
            self._ended_at = time.monotonic()
            self._over.set()
        if self._process is not None:
            self._platform.end_plugin(self._process, self._program)
        self._calls.put(None)
        for call in tuple(self._made.values()):
            call.answered.set()
        if self._current is not None:
            self._current.answered.set()


def _closing(work: Callable[[IO[bytes]], None], stream: IO[bytes]) -> None:
    """The work is done, and its end of the pipe closed."""
    try:
        work(stream)
    finally:
        with contextlib.suppress(OSError):  # what was not written yet is wanted by nobody
            stream.close()


def program_of(name: str, uid: int, bundle: pb.PluginBundle, folder: Path) -> PluginProgram:
    """How the plugin is run, within what a machine allows. `folder` is its own, with the bundle."""
    return PluginProgram(
        name=name,
        uid=uid,
        bundle=folder / "bundle.zip",
        scratch_dir=folder / "scratch",
        memory_mib=_within(bundle.memory_mib, limits.PLUGIN_MEMORY_MAX_MIB),
        scratch_mib=_within(bundle.scratch_mib, limits.PLUGIN_SCRATCH_MAX_MIB),
        capabilities=tuple(bundle.capabilities),
    )


def _within(asked: int, most: int) -> int:
    return max(1, min(asked, most))
