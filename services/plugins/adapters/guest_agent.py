"""The agent of a leased machine, over gRPC with mutual TLS. Whatever it says is bounded here before anybody sees it.

The endpoint carried by the lease is used as it is: its authority is the only one believed, its identity the only name.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from contracts import limits
from contracts.guest import agent_pb2 as pb
from contracts.guest.agent_pb2_grpc import AgentStub
from contracts.machines import GuestEndpoint, LeaseRef
from services.chassis.crash_points import Point, around
from services.plugins.adapters.guest_calls import frames_of, measure, reply_of, summary_of, translated
from services.plugins.adapters.guest_collect import receive_files
from services.plugins.adapters.guest_events import EventReader, bounded_text
from services.plugins.ports_guest import (
    Collected,
    CollectedFile,
    Flushed,
    GuestEvent,
    GuestHello,
    GuestLied,
    GuestRefused,
    GuestUnreachable,
    Launched,
    PluginEnding,
    PluginLimits,
    RecordSealed,
)

if TYPE_CHECKING:
    from contracts.guest.agent_pb2_grpc import AgentAsyncStub  # exists for type checkers only

PROTOCOL = 1
_MESSAGE_MAX_BYTES = 1024 * 1024
_CALL_TIMEOUT_S = 10.0
_PUT_BASE_TIMEOUT_S = 30.0
_PUT_BYTES_PER_S = 4 * 1024 * 1024
_PLUGIN_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 60.0
_LAUNCH_TIMEOUT_S = 45.0
_FLUSH_TIMEOUT_S = 60.0
_COLLECT_TIMEOUT_S = 120.0
_SILENCE_MAX_S = 20.0
_WATCH_MAX_S = float(2 * limits.OBSERVATION_MAX_S)
_ITEMS_MAX = 32
_LOG_MAX_BYTES = 64 * 1024
_PID_MAX = 1 << 22
_NONCE_BYTES = 32


class GrpcGuestConnector:
    """Implements GuestConnector. The files are this service's own client identity."""

    def __init__(self, *, client_cert_file: Path, client_key_file: Path) -> None:
        self._cert_file = client_cert_file
        self._key_file = client_key_file

    async def connect(self, endpoint: GuestEndpoint, lease: LeaseRef, *, timeout_s: float) -> "GrpcGuestSession":
        """A session whose agent proved the identity of the endpoint. Raises GuestUnreachable, GuestRefused."""
        if endpoint.scheme != "tcp":
            raise GuestRefused(f"no transport for {endpoint.scheme}")
        credentials = grpc.ssl_channel_credentials(
            root_certificates=endpoint.ca_pem.encode(),
            private_key=self._key_file.read_bytes(),
            certificate_chain=self._cert_file.read_bytes(),
        )
        options = (
            ("grpc.ssl_target_name_override", endpoint.server_identity),
            ("grpc.max_receive_message_length", _MESSAGE_MAX_BYTES),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 1000),
        )
        channel = grpc.aio.secure_channel(f"{endpoint.host}:{endpoint.port}", credentials, options=options)
        session = GrpcGuestSession(channel, lease)
        try:
            await session.hello(timeout_s=timeout_s)
        except BaseException:
            await session.close()
            raise
        return session


class GrpcGuestSession:
    """Implements GuestSession."""

    def __init__(self, channel: grpc.aio.Channel, lease: LeaseRef) -> None:
        self._channel = channel
        self._agent: AgentAsyncStub = AgentStub(channel)
        self._lease_id = lease.lease_id
        self._lease = pb.Lease(lease_id=lease.lease_id, epoch=lease.epoch, term=lease.term)
        self._events = EventReader(lease_id=lease.lease_id, epoch=lease.epoch)

    @property
    def frames_refused(self) -> int:
        """Events that were dropped because they named another lease or could not be believed."""
        return self._events.refused

    async def hello(self, *, timeout_s: float = _CALL_TIMEOUT_S) -> GuestHello:
        """The agent was reached and proven to be the lease's."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        request = pb.HelloRequest(protocol=PROTOCOL, nonce=nonce)
        # The port may be bound some moments from now: gRPC waits for it, up to the deadline.
        reply = await reply_of(self._agent.Hello(request, timeout=timeout_s, wait_for_ready=True))
        if reply.protocol != PROTOCOL:
            raise GuestRefused(f"the agent speaks protocol {reply.protocol}, this host {PROTOCOL}: rebuild the image")
        if reply.nonce != nonce or reply.lease_id != self._lease_id:
            raise GuestRefused("the agent is not the one of this lease")
        return GuestHello(
            agent_version=bounded_text(reply.agent_version),
            platform=bounded_text(reply.platform),
            boot_id=bounded_text(reply.boot_id),
            capabilities=tuple(bounded_text(item) for item in reply.capabilities[:_ITEMS_MAX]),
            plugin_versions=_texts(dict(reply.plugin_versions)),
            settings=_texts(dict(reply.settings)),
        )

    async def set_clock(self) -> None:
        """The guest's clock shows this host's time: it stood still with the machine."""
        request = pb.SetClockRequest(lease=self._lease, wall_clock_ns=time.time_ns())
        await reply_of(self._agent.SetClock(request, timeout=_CALL_TIMEOUT_S))

    async def put(self, source: Path, name: str) -> str:
        """The file stands in the guest, executable by the sample's user; its path there is returned."""
        reply = await self._put(source, pb.PutHeader(name=name))
        if not reply.path.startswith("/") or bounded_text(reply.path, limits.ARGUMENT_MAX_CHARS) != reply.path:
            raise GuestLied("the path of the sample cannot be one")
        return reply.path

    async def init_plugin(self, name: str, config: dict[str, object]) -> str:
        """The guest plugin is ready; its version is returned."""
        request = pb.InitPluginRequest(lease=self._lease, name=name, config_json=json.dumps(config))
        reply = await reply_of(self._agent.InitPlugin(request, timeout=_PLUGIN_TIMEOUT_S))
        return bounded_text(reply.version)

    async def start_plugin(self, name: str, bundle: Path, config: dict[str, object], bounds: PluginLimits) -> None:
        """The bundle is in the guest, and its plugin is ready, or ended already: `end_plugin` says how."""
        header = pb.PutHeader(name="bundle", plugin=name)
        await self._put(bundle, header)
        described = pb.PluginBundle(
            sha256=header.sha256,
            timeout_s=bounds.timeout_s,
            memory_mib=bounds.memory_mib,
            scratch_mib=bounds.scratch_mib,
            capabilities=bounds.capabilities,
        )
        request = pb.InitPluginRequest(lease=self._lease, name=name, config_json=json.dumps(config), bundle=described)
        await reply_of(self._agent.InitPlugin(request, timeout=_START_TIMEOUT_S))

    async def tell(self, plugin: str, message_id: str, fact: str, content: dict[str, object]) -> bool:
        """The bundled plugin is told of the fact, once, however often this is said; False when it cannot be."""
        request = pb.TellRequest(
            lease=self._lease, plugin=plugin, message_id=message_id, fact=fact, content_json=json.dumps(content)
        )
        return (await reply_of(self._agent.Tell(request, timeout=_CALL_TIMEOUT_S))).is_taken

    async def arm(self) -> None:
        """Every initialised plugin observes."""
        await reply_of(self._agent.Arm(self._call(), timeout=_PLUGIN_TIMEOUT_S))

    async def launch(
        self,
        argv: tuple[str, ...],
        *,
        environment: dict[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        has_network: bool = False,
    ) -> Launched:
        """The program runs as the sample's user. Once per lease; a repeated call returns the first outcome."""
        request = pb.LaunchRequest(
            lease=self._lease,
            argv=argv,
            user=user,
            cwd=cwd,
            environment=environment or {},
            has_network=has_network,
        )
        reply = await reply_of(self._agent.Launch(request, timeout=_LAUNCH_TIMEOUT_S))
        if not 0 < reply.pid <= _PID_MAX:
            raise GuestLied(f"no process has the number {reply.pid}")
        return Launched(pid=reply.pid, started_at_ns=reply.started_at_ns, exec_error=bounded_text(reply.exec_error))

    async def watch(self, *, after_position: int = 0) -> AsyncGenerator[GuestEvent, None]:
        """Everything that happened after that position, and then as it happens.

        Raises GuestUnreachable when the stream breaks or no heartbeat comes for 20 s; watch again to go on.
        """
        request = pb.WatchRequest(lease=self._lease, after_position=after_position)
        self._events.start(after_position)
        call = self._agent.Watch(request, timeout=_WATCH_MAX_S)
        try:
            async for event in self._events.read(call, silence_max_s=_SILENCE_MAX_S):
                yield event
                if isinstance(event, RecordSealed):
                    return
        except grpc.aio.AioRpcError as error:
            raise translated(error) from error
        finally:
            call.cancel()
        raise GuestUnreachable("the stream of events ended before the record did")

    async def flush(self) -> Flushed:
        """What is left of the tree is killed; the record is complete."""
        reply = await reply_of(self._agent.Flush(self._call(), timeout=_FLUSH_TIMEOUT_S))
        return Flushed(
            sources=tuple(summary_of(source) for source in reply.sources[:_ITEMS_MAX]),
            last_position=reply.last_position,
            killed=reply.killed,
        )

    async def collect(self, into: Path, *, timeout_s: float = _COLLECT_TIMEOUT_S) -> Collected:
        """Files that the sample wrote stand in the directory `into`, under names of our own choosing.

        What came whole before a fault is kept and the fault returned beside it; only this host's own faults are raised.
        """
        call = self._agent.Collect(self._call(), timeout=timeout_s)
        files: list[CollectedFile] = []
        try:
            with around(Point.AGENT_BEFORE, Point.AGENT_AFTER):
                omitted = await receive_files(call, into, files)
            return Collected(tuple(files), omitted)
        except grpc.aio.AioRpcError as error:
            return Collected(tuple(files), 0, fault=translated(error))
        except (GuestLied, GuestUnreachable) as fault:
            return Collected(tuple(files), 0, fault=fault)
        finally:
            call.cancel()

    async def shutdown_plugin(self, name: str) -> None:
        """The guest plugin is gone."""
        request = pb.ShutdownPluginRequest(lease=self._lease, name=name)
        await reply_of(self._agent.ShutdownPlugin(request, timeout=_PLUGIN_TIMEOUT_S))

    async def end_plugin(self, name: str) -> PluginEnding:
        """Nothing of the bundled plugin is left in the guest; how it ended. A repeated call returns the same."""
        request = pb.ShutdownPluginRequest(lease=self._lease, name=name)
        reply = await reply_of(self._agent.ShutdownPlugin(request, timeout=_PLUGIN_TIMEOUT_S))
        return PluginEnding(
            outcome=bounded_text(reply.outcome),
            reason=bounded_text(reply.reason, limits.REASON_MAX_CHARS),
            pieces=reply.pieces,
            log=reply.log[:_LOG_MAX_BYTES],
            duration_ms=reply.duration_ms,
        )

    async def shutdown(self) -> None:
        """The agent serves no more."""
        await reply_of(self._agent.Shutdown(self._call(), timeout=_FLUSH_TIMEOUT_S))

    async def close(self) -> None:
        """The connection is closed."""
        await self._channel.close()

    async def _put(self, source: Path, header: pb.PutHeader) -> pb.PutReply:
        """The file is in the guest under what the header says, which is completed here."""
        header.size_bytes, header.sha256 = await asyncio.to_thread(measure, source)
        header.lease.CopyFrom(self._lease)
        timeout_s = _PUT_BASE_TIMEOUT_S + header.size_bytes / _PUT_BYTES_PER_S
        return await reply_of(self._agent.Put(frames_of(header, source), timeout=timeout_s))

    def _call(self) -> pb.CallRequest:
        return pb.CallRequest(lease=self._lease)


@asynccontextmanager
async def guest_session(
    connector: GrpcGuestConnector, endpoint: GuestEndpoint, lease: LeaseRef, *, timeout_s: float
) -> AsyncIterator[GrpcGuestSession]:
    """A session that is closed at the end of the block."""
    session = await connector.connect(endpoint, lease, timeout_s=timeout_s)
    try:
        yield session
    finally:
        await session.close()


def _texts(pairs: dict[str, str]) -> dict[str, str]:
    return {bounded_text(name): bounded_text(value) for name, value in list(pairs.items())[:_ITEMS_MAX]}
