"""A link to PostgreSQL that can be slow, or be cut between a commit and the answer to it.

It reads just enough of the protocol to know when the server has committed and has not yet been heard (PostgreSQL's
manual, "Frontend/Backend Protocol": a message is a type byte and a length; ReadyForQuery bears the transaction state).
"""

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from deploy.local.ports import LOOPBACK

COMMIT_CALL = b"commit_unit("
COMMIT_STATEMENT = b"COMMIT;"
PARSE, BIND, QUERY, READY, IDLE = b"P", b"B", b"Q", b"Z", b"I"
STARTUP_MAX_BYTES = 64 * 1024
MESSAGE_MAX_BYTES = 64 * 1024 * 1024
SSL_REQUEST = 80877103


@dataclass
class Faults:
    """What the link does to those who use it. May be changed at any time."""

    delay_s: Callable[[], float] = lambda: 0.0
    cut: Callable[[], bool] = lambda: False
    """asked after each commit of the server, before its answer goes on"""
    cuts: int = 0

    def end(self) -> None:
        """From now on the link does nothing but carry."""
        self.delay_s = lambda: 0.0
        self.cut = lambda: False


@dataclass
class _Wire:
    """One client's connection."""

    client_reader: asyncio.StreamReader
    client_writer: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server_writer: asyncio.StreamWriter
    commits: set[bytes] = field(default_factory=set)
    is_committing: bool = False


class Proxy:
    """Listens on a port of its own, for one server."""

    def __init__(self, server_port: int, faults: Faults) -> None:
        self._server_port = server_port
        self.faults = faults
        self.port = 0
        self._wires: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        """It takes connections for as long as the block lasts."""
        listener = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            for wire in list(self._wires):
                wire.cancel()
            await asyncio.gather(*self._wires, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._wires.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._wires.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._server_port)
        wire = _Wire(reader, writer, server_reader, server_writer)
        try:
            await self._greet(wire)
            ways = [asyncio.create_task(self._ask(wire)), asyncio.create_task(self._answer(wire))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            server_writer.transport.abort()

    async def _greet(self, wire: _Wire) -> None:
        """What comes before messages bear a type: a request for TLS, answered as the server does, and the start."""
        while True:
            head = await wire.client_reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            rest = await wire.client_reader.readexactly(min(length, STARTUP_MAX_BYTES) - 8)
            wire.server_writer.write(head + rest)
            if code != SSL_REQUEST:
                return
            wire.client_writer.write(await wire.server_reader.readexactly(1))

    async def _ask(self, wire: _Wire) -> None:
        while True:
            kind, body = await _message(wire.client_reader)
            if kind == PARSE:
                name, query, _ = body[4:].split(b"\0", 2)
                (wire.commits.add if COMMIT_CALL in query else wire.commits.discard)(name)
            elif kind == BIND:
                wire.is_committing = body[4:].split(b"\0", 2)[1] in wire.commits
            elif kind == QUERY:
                wire.is_committing = body[4:].startswith(COMMIT_STATEMENT)
            if kind in (BIND, QUERY):
                await asyncio.sleep(self.faults.delay_s())
            wire.server_writer.write(kind + body)
            await wire.server_writer.drain()

    async def _answer(self, wire: _Wire) -> None:
        held = b""
        while True:
            kind, body = await _message(wire.server_reader)
            held += kind + body
            if kind == READY and wire.is_committing:
                wire.is_committing = False
                if body[4:] == IDLE and self.faults.cut():
                    self.faults.cuts += 1
                    return
            if not wire.is_committing:
                wire.client_writer.write(held)
                held = b""
                await wire.client_writer.drain()


def at_random(seed: int, share: float) -> Callable[[], bool]:
    """True in that share of the cases."""
    chance = random.Random(seed)  # noqa: S311 - when to cut, not a secret
    return lambda: chance.random() < share


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The type byte, and the length with what it counts."""
    head = await reader.readexactly(5)
    length = min(struct.unpack("!I", head[1:])[0], MESSAGE_MAX_BYTES)
    return head[:1], head[1:] + await reader.readexactly(length - 4)
