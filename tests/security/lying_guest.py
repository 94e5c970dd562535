"""A guest's agent that serves a lease honestly, but for what a lie changes. It answers in messages or in raw bytes."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from contracts.guest import agent_pb2 as pb
from tests.integration.plugins_bench import VERSIONS

SERVICE = "malbox.guest.v1.Agent"
HEARTBEAT_S = 0.5
PID = 100
LOOT = b"loot"

Said: TypeAlias = Any
"""A message, or the bytes that stand for one on the wire."""
Reply: TypeAlias = Callable[["LyingGuest", Any], Any]
Stream: TypeAlias = Callable[["LyingGuest", Any], AsyncIterator[Said]]


@dataclass
class LyingGuest:
    """One lease's agent. `replies` and `streams` are what it does otherwise, by the name of the call."""

    lease_id: str
    epoch: int
    replies: dict[str, Reply] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    events: Sequence[Said] | None = None
    files: Sequence[Said] | None = None
    flushed: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[str] = field(default_factory=list)

    @property
    def mark(self) -> bytes:
        """What stands in the evidence of this lease, and of no other."""
        return f"evidence of {self.lease_id}\n".encode()

    def event(self, position: int, **what: Any) -> pb.Event:
        """An event of this lease."""
        made = pb.Event(lease_id=self.lease_id, epoch=self.epoch, position=position)
        made.MergeFrom(pb.Event(**what))
        return made

    def evidence(self, position: int, sequence: int = 0, source: str = "syscalls", **fields: Any) -> pb.Event:
        """A piece of evidence, by which this lease can be told."""
        fields.setdefault("content", self.mark)
        return self.event(position, evidence=pb.Evidence(source=source, sequence=sequence, **fields))

    def started(self, position: int, pid: int = PID) -> pb.Event:
        """A process runs."""
        return self.event(position, process_started=pb.ProcessStarted(pid=pid, is_first=pid == PID))

    def exited(self, position: int, pid: int = PID, **how: int) -> pb.Event:
        """A process ended."""
        how = how or {"exit_code": 0}
        return self.event(position, process_exited=pb.ProcessExited(pid=pid, is_first=pid == PID, **how))

    def empty(self, position: int) -> pb.Event:
        """The tree is gone."""
        return self.event(position, tree_empty=pb.TreeEmpty())

    def heartbeat(self) -> pb.Event:
        """A sign of life."""
        return self.event(0, heartbeat=pb.Heartbeat(beat=1))

    def honest_events(self) -> list[Said]:
        """A short life with some evidence."""
        return [self.started(1), self.evidence(2), self.exited(3), self.empty(4)]

    def honest_files(self) -> list[Said]:
        """One file."""
        return [*file_of(LOOT), pb.CollectFrame(done=pb.CollectEnd(files=1))]

    def reply(self, name: str, request: Any) -> Said:
        """What an honest agent answers."""
        match name:
            case "Hello":
                return pb.HelloReply(
                    protocol=request.protocol,
                    agent_version="1.0.0",
                    platform="linux",
                    boot_id="boot",
                    nonce=request.nonce,
                    lease_id=self.lease_id,
                )
            case "SetClock":
                return pb.SetClockReply(is_set=True)
            case "InitPlugin":
                return pb.InitPluginReply(version=VERSIONS[request.name])
            case "Launch":
                return pb.LaunchReply(pid=PID, started_at_ns=1)
            case "Flush":
                self.flushed.set()
                events = self.honest_events() if self.events is None else self.events
                return pb.FlushReply(sources=[self.summary()], last_position=len(events) + 1)
        return getattr(pb, f"{name}Reply")()

    def summary(self, **otherwise: Any) -> pb.SourceSummary:
        """What an honest agent recorded."""
        fields: dict[str, Any] = {
            "source": "syscalls",
            "frames": 1,
            "size_bytes": len(self.mark),
            "sha256": hashlib.sha256(self.mark).digest(),
        }
        return pb.SourceSummary(**{**fields, **otherwise})

    async def watch(self, request: pb.WatchRequest) -> AsyncIterator[Said]:
        """The record, signs of life until it is flushed, and its seal."""
        events = self.honest_events() if self.events is None else self.events
        yield self.heartbeat()
        for event in events[request.after_position :]:
            yield event
        while not self.flushed.is_set():
            yield self.heartbeat()
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self.flushed.wait()
            except TimeoutError:
                continue
        yield self.event(len(events) + 1, sealed=pb.Sealed())

    async def collect(self, _request: pb.CallRequest) -> AsyncIterator[Said]:
        """The files."""
        for frame in self.honest_files() if self.files is None else self.files:
            yield frame


def file_of(content: bytes, path: bytes = b"/home/sample/loot", **end: Any) -> list[pb.CollectFrame]:
    """The frames of one whole file."""
    fields = {"size_bytes": len(content), "sha256": hashlib.sha256(content).digest(), **end}
    return [
        pb.CollectFrame(start=pb.FileStart(path=path, size_bytes=len(content))),
        pb.CollectFrame(piece=content),
        pb.CollectFrame(end=pb.FileEnd(**fields)),
    ]


async def in_order(items: Iterable[Said]) -> AsyncIterator[Said]:
    """A stream of these."""
    for item in items:
        yield item


async def never(_guest: LyingGuest, _request: Any) -> Said:
    """No answer comes."""
    await asyncio.sleep(3600)


def _wire(said: Said) -> bytes:
    content: bytes = said if isinstance(said, bytes) else said.SerializeToString()
    return content


class _Handler(grpc.GenericRpcHandler):
    """Finds what the guest does for a call."""

    def __init__(self, guest: LyingGuest) -> None:
        self._guest = guest

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The behaviour of one call."""
        name = str(details.method).rpartition("/")[2]
        guest = self._guest
        guest.calls.append(name)
        if name in ("Watch", "Collect"):
            kind = pb.WatchRequest if name == "Watch" else pb.CallRequest
            return grpc.unary_stream_rpc_method_handler(
                self._stream(name), request_deserializer=kind.FromString, response_serializer=_wire
            )
        if name == "Put":
            return grpc.stream_unary_rpc_method_handler(
                self._put, request_deserializer=pb.PutFrame.FromString, response_serializer=_wire
            )
        kinds = {"Flush": pb.CallRequest, "Arm": pb.CallRequest, "Shutdown": pb.CallRequest}
        kind_of = kinds.get(name) or getattr(pb, f"{name}Request")
        return grpc.unary_unary_rpc_method_handler(
            self._unary(name), request_deserializer=kind_of.FromString, response_serializer=_wire
        )

    def _unary(self, name: str) -> Any:
        async def answer(request: Any, context: Any) -> Said:
            lie = self._guest.replies.get(name)
            if lie is None:
                return self._guest.reply(name, request)
            return await _or_abort(lie(self._guest, request), context)

        return answer

    async def _put(self, frames: AsyncIterator[pb.PutFrame], context: Any) -> Said:
        lie = self._guest.replies.get("Put")
        header = await anext(aiter(frames))
        if lie is not None:
            return await _or_abort(lie(self._guest, header.header), context)
        async for _ in frames:
            pass
        return pb.PutReply(path=f"/home/sample/{header.header.name}")

    def _stream(self, name: str) -> Any:
        async def stream(request: Any, context: Any) -> AsyncIterator[Said]:
            lie = self._guest.streams.get(name)
            honest = self._guest.watch if name == "Watch" else self._guest.collect
            async for said in honest(request) if lie is None else lie(self._guest, request):
                if isinstance(said, Abort):
                    await context.abort(said.code, said.details)
                yield said

        return stream


@dataclass(frozen=True)
class Abort:
    """The call ends with that error."""

    code: grpc.StatusCode
    details: str = ""


async def _or_abort(answer: Any, context: Any) -> Said:
    said = await answer if asyncio.iscoroutine(answer) else answer
    if isinstance(said, Abort):
        await context.abort(said.code, said.details)
    return said


@asynccontextmanager
async def serving(guest: LyingGuest, credentials: Any, compression: Any = None) -> AsyncIterator[int]:
    """The guest listens on loopback; its port."""
    server = grpc.aio.server(
        handlers=[_Handler(guest)], options=[("grpc.max_send_message_length", -1)], compression=compression
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
