"""The guest of the instant hypervisor: a fake that speaks the agent's protocol and runs nothing.

It serves benchmarks and tests of everything around a guest. It takes the sample's bytes and forgets them; a launch
"runs" for no time and leaves an empty record. It must never be taken for an analysis: its agent version says so.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import grpc

from contracts.guest import agent_pb2 as pb
from contracts.guest.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server

AGENT_VERSION = "instant-fake"
PLUGINS = {"syscalls": "1.2.0"}
HEARTBEAT_S = 1.0
MESSAGE_MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Identity:
    """What the fake guest serves under: its lease and its certificate, PEM."""

    machine_id: str
    lease_id: str
    key_pem: bytes
    cert_pem: bytes
    client_ca_pem: bytes


@dataclass
class InstantAgent(AgentServicer):
    """One lease's fake agent."""

    identity: Identity
    launched: asyncio.Event = field(default_factory=asyncio.Event)
    flushed: asyncio.Event = field(default_factory=asyncio.Event)

    async def Hello(self, request: pb.HelloRequest, context: object) -> pb.HelloReply:  # noqa: N802, ARG002
        """Who answers."""
        return pb.HelloReply(
            protocol=request.protocol,
            agent_version=AGENT_VERSION,
            machine_id=self.identity.machine_id,
            boot_id=self.identity.lease_id,
            instance_id=self.identity.lease_id,
            nonce=request.nonce,
            platform="linux",
            capabilities=[*PLUGINS, "plugins"],
            plugin_versions=PLUGINS,
            lease_id=self.identity.lease_id,
        )

    async def SetClock(self, request: object, context: object) -> pb.SetClockReply:  # noqa: N802, ARG002
        """Nothing to set."""
        return pb.SetClockReply(is_set=False)

    async def Put(self, request_iterator: AsyncIterator[pb.PutFrame], context: object) -> pb.PutReply:  # noqa: N802, ARG002
        """The bytes are checked and forgotten."""
        header, digest, size = pb.PutHeader(), hashlib.sha256(), 0
        async for frame in request_iterator:
            if frame.WhichOneof("part") == "header":
                header = frame.header
            else:
                digest.update(frame.piece)
                size += len(frame.piece)
        if digest.digest() != header.sha256 or size != header.size_bytes:
            raise grpc.RpcError("size or hash is wrong")
        return pb.PutReply(path=f"/instant/{header.name}")

    async def InitPlugin(self, request: pb.InitPluginRequest, context: object) -> pb.InitPluginReply:  # noqa: N802, ARG002
        """Ready at once."""
        return pb.InitPluginReply(version=PLUGINS.get(request.name, ""))

    async def Tell(self, request: object, context: object) -> pb.TellReply:  # noqa: N802, ARG002
        """Told to nobody."""
        return pb.TellReply(is_taken=True)

    async def Arm(self, request: object, context: object) -> pb.ArmReply:  # noqa: N802, ARG002
        """Armed."""
        return pb.ArmReply()

    async def Launch(self, request: object, context: object) -> pb.LaunchReply:  # noqa: N802, ARG002
        """Nothing is run."""
        self.launched.set()
        return pb.LaunchReply(pid=1, started_at_ns=1)

    async def Watch(self, request: pb.WatchRequest, context: object) -> AsyncIterator[pb.Event]:  # noqa: N802, ARG002
        """The record of a process that ended at once."""
        event = partial(pb.Event, lease_id=request.lease.lease_id, epoch=request.lease.epoch)
        yield event(heartbeat=pb.Heartbeat(beat=1))
        await self.launched.wait()
        record = (
            event(position=1, process_started=pb.ProcessStarted(pid=1, is_first=True)),
            event(position=2, process_exited=pb.ProcessExited(pid=1, is_first=True, exit_code=0)),
            event(position=3, tree_empty=pb.TreeEmpty()),
        )
        for entry in record[request.after_position :]:
            yield entry
        beat = 1
        while not self.flushed.is_set():
            try:
                await asyncio.wait_for(self.flushed.wait(), HEARTBEAT_S)
            except TimeoutError:
                beat += 1
                yield event(heartbeat=pb.Heartbeat(beat=beat, last_position=3))
        yield event(position=4, sealed=pb.Sealed())

    async def Flush(self, request: object, context: object) -> pb.FlushReply:  # noqa: N802, ARG002
        """The empty record is complete."""
        self.flushed.set()
        return pb.FlushReply(last_position=4)

    async def Collect(self, request: object, context: object) -> AsyncIterator[pb.CollectFrame]:  # noqa: N802, ARG002
        """No files."""
        yield pb.CollectFrame(done=pb.CollectEnd())

    async def ShutdownPlugin(self, request: object, context: object) -> pb.ShutdownPluginReply:  # noqa: N802, ARG002
        """Gone; one that came as a bundle was never run, and had nothing to say."""
        return pb.ShutdownPluginReply(outcome="completed")

    async def Settings(self, request: object, context: object) -> pb.SettingsReply:  # noqa: N802, ARG002
        """It has none."""
        return pb.SettingsReply()

    async def Shutdown(self, request: object, context: object) -> pb.ShutdownReply:  # noqa: N802, ARG002
        """Nothing to end."""
        return pb.ShutdownReply()


async def serve(identity: Identity, *, host: str) -> tuple[grpc.aio.Server, int]:
    """The fake agent listens under its lease's certificate; the server and its port."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MESSAGE_MAX_BYTES)])
    add_AgentServicer_to_server(InstantAgent(identity), server)
    credentials = grpc.ssl_server_credentials(
        [(identity.key_pem, identity.cert_pem)],
        root_certificates=identity.client_ca_pem,
        require_client_auth=True,
    )
    port = server.add_secure_port(f"{host}:0", credentials)
    await server.start()
    return server, port
