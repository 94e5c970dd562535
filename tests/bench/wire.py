"""A client that costs little: HTTP/1.1 over asyncio streams with kept connections.

The processors that it would burn are those that it measures, so it does no more than it must.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.local.ports import LOOPBACK
from deploy.local.routes import API

TIMEOUT_S = 60.0
LINE_MAX_BYTES = 1024 * 1024
BOUNDARY = "malbox-bench-4f6c1d"
HTTP_ERROR_FROM = 400


class Refused(Exception):
    """the origin did not do what was asked"""


@dataclass(frozen=True)
class Origin:
    """Where to call, and as whom."""

    port: int
    token: str

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator["Wire"]:
        """A connection for any number of requests, one after the other."""
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port, limit=LINE_MAX_BYTES)
        try:
            yield Wire(self, reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), TIMEOUT_S)


class Wire:
    """One connection."""

    def __init__(self, origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._origin = origin
        self._reader = reader
        self._writer = writer

    async def get(self, path: str) -> Any:
        """The JSON at the path. Raises Refused."""
        return json.loads(await self.exchange("GET", path))

    async def submit(self, form: bytes) -> dict[str, Any]:
        """The submission, durable. Raises Refused."""
        content_type = f"multipart/form-data; boundary={BOUNDARY}"
        answer: dict[str, Any] = json.loads(await self.exchange("POST", "/submissions", form, content_type))
        return answer

    async def exchange(self, method: str, path: str, body: bytes = b"", content_type: str = "") -> bytes:
        """The body of the answer. Raises Refused when the answer is an error."""
        async with asyncio.timeout(TIMEOUT_S):
            self._send(method, path, body, content_type)
            await self._writer.drain()
            status, headers = await self._head()
            content = await self._body(headers)
        if status >= HTTP_ERROR_FROM:
            raise Refused(f"{method} {path}: {status} {content[:400].decode(errors='replace')}")
        return content

    async def events(self, path: str) -> AsyncIterator[tuple[str, Any]]:
        """Server-sent events of the path, as (name, JSON), until the stream ends. The connection serves no more."""
        self._send("GET", path, b"", "")
        await self._writer.drain()
        status, headers = await self._head()
        if status >= HTTP_ERROR_FROM:
            raise Refused(f"GET {path}: {status}")
        name, pending = "", b""
        async for piece in self._pieces(headers):
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"event: "):
                    name = line[7:].decode()
                elif line.startswith(b"data: "):
                    yield name, json.loads(line[6:])

    def _send(self, method: str, path: str, body: bytes, content_type: str) -> None:
        head = [f"{method} {API}{path} HTTP/1.1", f"Host: {LOOPBACK}", f"Authorization: Bearer {self._origin.token}"]
        if body:
            head += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
        self._writer.write("\r\n".join([*head, "", ""]).encode() + body)

    async def _head(self) -> tuple[int, dict[str, str]]:
        block = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = block.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        return int(first.split(" ")[1]), headers

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return b"".join([piece async for piece in self._pieces(headers)])

    async def _pieces(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        if headers.get("transfer-encoding") != "chunked":
            return
        while True:  # bounded by the answer's end, which the origin must send within the timeout of each piece
            async with asyncio.timeout(TIMEOUT_S):
                size = int((await self._reader.readline()).split(b";")[0], 16)
                piece = await self._reader.readexactly(size)
                await self._reader.readline()
            if size == 0:
                return
            yield piece


def form(content: bytes, name: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """A submission as multipart/form-data."""
    disposition = "Content-Disposition: form-data; name="
    parts = [f'--{BOUNDARY}\r\n{disposition}"{field}"\r\n\r\n{value}\r\n'.encode() for field, value in fields]
    file = f'--{BOUNDARY}\r\n{disposition}"file"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
    return b"".join([*parts, file.encode(), content, f"\r\n--{BOUNDARY}--\r\n".encode()])


def unique_file(size_bytes: int) -> bytes:
    """A harmless script that no other run has: it says nothing and ends."""
    head = b"#!/bin/sh\nexit 0\n#"
    return head + os.urandom((size_bytes - len(head)) // 2).hex().encode()
