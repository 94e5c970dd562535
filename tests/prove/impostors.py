"""Impostors at both ends of the guest channel, thousands of them: none is accepted, and the right one always is.

    python -m tests.prove.impostors [--count N]

Half of them knock at a real agent that serves a lease, half stand where a leased machine's agent should be and let the
host's own connector come. Accepted is whoever gets one byte out of the agent's TLS, or a session out of the connector;
those of the second kind would answer every question rightly. Needs root, as the agent does.
"""

import argparse
import asyncio
import contextlib
import itertools
import secrets
import ssl
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from contracts.guest import agent_pb2 as pb
from contracts.guest.agent_pb2_grpc import AgentStub
from contracts.machines import GuestEndpoint
from services.machines.adapters import machine_authority
from services.plugins.ports_guest import GuestLied, GuestRefused, GuestUnreachable
from tests.integration.guest_harness import LEASE_ID, MACHINE_ID, RunningAgent, lease, running_agent
from tests.integration.plugins_bench import open_folder
from tests.prove.identities import Identity, Issuer, self_signed
from tests.security.lying_guest import LyingGuest, serving

EPOCH = 7
AT_ONCE = 60
CALLS_AT_ONCE = 2  # the agent serves few
KNOCK_TIMEOUT_S = 10.0
VISIT_TIMEOUT_S = 1.5
CONTROL_TIMEOUT_S = 30.0
CONTROL_EVERY = 50
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
TLS_ALERT = 0x15
OTHER_LEASE_ID = "lea_" + "cd" * 16
Attempt = Callable[[], Awaitable[bool]]
"""Whether the impostor was accepted."""


@dataclass
class Tally:
    """How often each kind of impostor tried, and was accepted; how often the right one was, of how many times."""

    tries: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    controls: int = 0
    controls_accepted: int = 0

    @property
    def holds(self) -> bool:
        """Nobody was taken for another, and nobody was refused who was right."""
        return not self.accepted.total() and 0 < self.controls == self.controls_accepted


async def knock_with_tls(
    port: int, identity: Identity | None, folder: Path, *, tls: ssl.TLSVersion | None = None
) -> bool:
    """Whether the agent said anything inside TLS to a client of that identity."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the impostor believes anybody
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        context.load_cert_chain(*identity.files(folder))
    if tls is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, tls
    try:
        return bool(await _ask(port, HTTP2_HELLO, context))
    except (OSError, ssl.SSLError):
        return False


async def knock_in_plain(port: int, said: bytes) -> bool:
    """Whether the agent said anything but an alert to who speaks no TLS."""
    try:
        answer = await _ask(port, said, None)
    except OSError:
        return False
    return bool(answer) and answer[0] != TLS_ALERT


async def _ask(port: int, said: bytes, context: ssl.SSLContext | None) -> bytes:
    async with asyncio.timeout(KNOCK_TIMEOUT_S):
        name = "agent" if context is not None else None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        try:
            writer.write(said)
            await writer.drain()
            async with asyncio.timeout(KNOCK_TIMEOUT_S / 5):
                return await reader.read(64)
        except TimeoutError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()


async def call(channel: grpc.aio.Channel, make: Callable[[Any], Any]) -> bool:
    """Whether the agent did what the holder of the host's own identity asked in another's name."""
    try:
        await make(AgentStub(channel))
    except grpc.aio.AioRpcError as error:
        if error.code() not in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION):
            raise  # nobody refused it: that proves nothing
        return False
    return True


def callers(channel: grpc.aio.Channel) -> dict[str, Attempt]:
    """The host's own identity, and a lease that is not the agent's."""
    places = asyncio.Semaphore(CALLS_AT_ONCE)

    def asked(make: Callable[[Any], Any]) -> Attempt:
        async def attempt() -> bool:
            async with places:
                return await call(channel, make)

        return attempt

    def arm(lease_id: str, epoch: int, term: int) -> Attempt:
        of = pb.CallRequest(lease=pb.Lease(lease_id=lease_id, epoch=epoch, term=term))
        return asked(lambda agent: agent.Arm(of, timeout=KNOCK_TIMEOUT_S))

    enrol = pb.EnrolRequest(
        machine_id=MACHINE_ID, lease_id=OTHER_LEASE_ID, epoch=8, server_identity="a.b", entropy=bytes(64)
    )
    install = pb.InstallRequest(lease_id=LEASE_ID, epoch=EPOCH, certificate_pem=b"")
    return {
        "a call for another lease": arm(OTHER_LEASE_ID, EPOCH, 2),
        "a call for the epoch before": arm(LEASE_ID, EPOCH - 1, 2),
        "a call for the epoch after": arm(LEASE_ID, EPOCH + 1, 2),
        "a call of the driver before": arm(LEASE_ID, EPOCH, 1),
        "a call for no lease": arm("", 0, 2),
        "a second enrolment": asked(lambda agent: agent.Enrol(enrol, timeout=KNOCK_TIMEOUT_S)),
        "a second certificate": asked(lambda agent: agent.Install(install, timeout=KNOCK_TIMEOUT_S)),
    }


def knockers(agent: RunningAgent, folder: Path) -> dict[str, Attempt]:
    """Clients that are not the host."""
    port = agent.address.port
    host = Issuer.read(agent.client.ca_file.read_bytes(), agent.client.ca_key_file.read_bytes())
    machine = Issuer.read(agent.authority.ca_cert_pem.encode(), agent.authority.ca_key_pem.encode())
    own = machine_authority.lease_identity(MACHINE_ID, LEASE_ID)
    right = Identity(agent.client.cert_file.read_bytes(), agent.client.key_file.read_bytes())

    def tls(identity: Callable[[], Identity | None], version: ssl.TLSVersion | None = None) -> Attempt:
        return lambda: knock_with_tls(port, identity(), folder, tls=version)

    def plain(said: Callable[[], bytes]) -> Attempt:
        return lambda: knock_in_plain(port, said())

    return {
        "a client without a certificate": tls(lambda: None),
        "a client that signed itself": tls(lambda: self_signed("malbox host")),
        "a client of another authority": tls(lambda: Issuer.invented().identity("malbox host")),
        "a client of an authority of the same name": tls(lambda: Issuer.invented(host.cert.subject).identity("host")),
        "a client whose time is over": tls(lambda: host.identity("malbox host", starts_h=-48, ends_h=-24)),
        "a client whose time is to come": tls(lambda: host.identity("malbox host", starts_h=24, ends_h=48)),
        "a client with the agent's own identity": tls(lambda: machine.identity(own)),
        "the host over TLS 1.0": tls(lambda: right, ssl.TLSVersion.TLSv1),
        "the host over TLS 1.1": tls(lambda: right, ssl.TLSVersion.TLSv1_1),
        "HTTP/2 in plain": plain(lambda: HTTP2_HELLO),
        "HTTP/1.1": plain(lambda: b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n"),
        "a greeting of SSH": plain(lambda: b"SSH-2.0-OpenSSH_9.2\r\n"),
        "a broken greeting of TLS": plain(lambda: b"\x16\x03\x01\x02\x00\x01" + secrets.token_bytes(500)),
        "garbage": plain(lambda: secrets.token_bytes(1 + secrets.randbelow(2000))),
        "a connection that is closed at once": plain(lambda: b""),
    }


@contextlib.asynccontextmanager
async def impostors(agent: RunningAgent) -> AsyncIterator[dict[str, Attempt]]:
    """Servers that stand where the agent of the lease should be; each attempt is a visit of the host's connector."""
    machine = Issuer.read(agent.authority.ca_cert_pem.encode(), agent.authority.ca_key_pem.encode())
    own = machine_authority.lease_identity(MACHINE_ID, LEASE_ID)
    enrolment = machine_authority.enrolment_identity(MACHINE_ID)
    identities = {
        "an agent that signed itself": self_signed(own),
        "an agent of another authority": Issuer.invented().identity(own),
        "an agent of an authority of the same name": Issuer.invented(machine.cert.subject).identity(own),
        "an agent of another machine": Issuer.invented().identity(
            machine_authority.lease_identity("linux-2", LEASE_ID)
        ),
        "an agent of another lease": machine.identity(machine_authority.lease_identity(MACHINE_ID, OTHER_LEASE_ID)),
        "an agent that is not enrolled": machine.identity(enrolment),
        "an agent whose lease's time is over": machine.identity(own, starts_h=-48, ends_h=-24),
        "an agent whose time is to come": machine.identity(own, starts_h=24, ends_h=48),
        "an agent of any name": machine.identity("*"),
        "an agent whose name begins so": machine.identity(f"{own}.example"),
    }
    replayed = secrets.token_bytes(32)
    words: dict[str, dict[str, Any]] = {
        "an agent that repeats an old nonce": {"nonce": replayed},
        "an agent that names another lease": {"lease_id": OTHER_LEASE_ID},
        "an agent that names no lease": {"lease_id": "-"},
        "an agent of another protocol": {"protocol": 2},
    }
    async with AsyncExitStack() as stack:
        attempts: dict[str, Attempt] = {}
        for name, identity in (*identities.items(), *((name, machine.identity(own)) for name in words)):
            guest = LyingGuest(LEASE_ID, EPOCH)
            if name in words:
                guest.replies["Hello"] = _otherwise(words[name])
            credentials = grpc.ssl_server_credentials([(identity.key_pem, identity.cert_pem)])
            attempts[name] = visit(agent, await stack.enter_async_context(serving(guest, credentials)), own)
        for name, answer in _PLAIN.items():
            attempts[name] = visit(agent, await stack.enter_async_context(plain_server(answer)), own)
        old = await stack.enter_async_context(old_tls_server(machine.identity(own)))
        attempts["an agent over TLS 1.1"] = visit(agent, old, own)
        yield attempts


_PLAIN = {
    "a server of HTTP/2 in plain": HTTP2_HELLO[24:],
    "a server of HTTP/1.1": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a server of garbage": secrets.token_bytes(2000),
    "a server that says nothing": b"",
}


def _otherwise(fields: dict[str, Any]) -> Callable[[LyingGuest, Any], Any]:
    def answer(guest: LyingGuest, request: Any) -> Any:
        honest = guest.reply("Hello", request)
        honest.MergeFrom(pb.HelloReply(**fields))
        return honest

    return answer


def visit(agent: RunningAgent, port: int, identity: str, *, timeout_s: float = VISIT_TIMEOUT_S) -> Attempt:
    """The host's connector comes to that port for the lease; whether it takes who is there for the lease's agent."""
    endpoint = GuestEndpoint(
        scheme="tcp", host="127.0.0.1", port=port, server_identity=identity, ca_pem=agent.authority.ca_cert_pem
    )

    async def attempt() -> bool:
        try:
            session = await agent.connector.connect(endpoint, lease(term=2), timeout_s=timeout_s)
        except (GuestUnreachable, GuestRefused, GuestLied):
            return False
        await session.close()
        return True

    return attempt


@contextlib.asynccontextmanager
async def plain_server(answer: bytes) -> AsyncIterator[int]:
    """Whoever connects is answered so, without TLS."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(VISIT_TIMEOUT_S):
                await reader.read(1)
                writer.write(answer)
                await writer.drain()
                await reader.read()
        writer.close()

    async with _listening(serve, None) as port:
        yield port


@contextlib.asynccontextmanager
async def old_tls_server(identity: Identity) -> AsyncIterator[int]:
    """The right certificate, under a protocol that is no longer safe."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*identity.files(Path(folder)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with _listening(serve, context) as port:
        yield port


@contextlib.asynccontextmanager
async def _listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], context: ssl.SSLContext | None
) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


async def prove(count: int) -> Tally:
    """That many impostors of every kind in turn tried, and between them the right ones."""
    with open_folder() as folder, running_agent(folder) as agent:
        identity = await agent.enrol()
        right = Identity(agent.client.cert_file.read_bytes(), agent.client.key_file.read_bytes())
        controls: list[Attempt] = [
            lambda: knock_with_tls(agent.address.port, right, folder),
            visit(agent, agent.address.port, identity, timeout_s=CONTROL_TIMEOUT_S),
        ]
        session = await agent.connector.connect(agent.endpoint(identity), lease(term=2), timeout_s=20)
        await session.arm()
        async with impostors(agent) as standing, _host_channel(agent, right, identity) as channel:
            attempts = {**knockers(agent, folder), **callers(channel), **standing}
            tally = await tried(attempts, controls, count)
        await session.arm()
        await session.close()
    return tally


@contextlib.asynccontextmanager
async def _host_channel(agent: RunningAgent, right: Identity, identity: str) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(agent.authority.ca_cert_pem.encode(), right.key_pem, right.cert_pem)
    options = (("grpc.ssl_target_name_override", identity),)
    async with grpc.aio.secure_channel(f"127.0.0.1:{agent.address.port}", credentials, options=options) as channel:
        yield channel


async def tried(attempts: dict[str, Attempt], controls: Sequence[Attempt], count: int) -> Tally:
    """Every kind in turn, many at once."""
    tally, places = Tally(), asyncio.Semaphore(AT_ONCE)

    async def impostor(name: str) -> None:
        async with places:
            tally.tries[name] += 1
            was_accepted = await attempts[name]()
        tally.accepted[name] += was_accepted

    async def control(attempt: Attempt) -> None:
        async with places:
            tally.controls += 1
            was_accepted = await attempt()
        tally.controls_accepted += was_accepted

    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(itertools.islice(itertools.cycle(attempts), count)):
            group.create_task(impostor(name))
            if number % CONTROL_EVERY == 0:
                for attempt in controls:
                    group.create_task(control(attempt))
    return tally


def main(argv: Sequence[str] | None = None) -> int:
    """0 when no impostor was accepted and the right ones always were."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.impostors", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many impostors try")
    count = parser.parse_args(argv).count
    began = time.monotonic()
    tally = asyncio.run(prove(count))
    took_s = time.monotonic() - began
    for name in tally.tries:
        sys.stdout.write(f"{tally.tries[name]:>7} tries, {tally.accepted[name]:>3} accepted: {name}\n")
    sys.stdout.write(
        f"{tally.tries.total()} impostors of {len(tally.tries)} kinds, {tally.accepted.total()} accepted; "
        f"the right ones {tally.controls_accepted} of {tally.controls} times; {took_s:.0f} s\n"
    )
    return 0 if tally.holds else 1


if __name__ == "__main__":
    sys.exit(main())
