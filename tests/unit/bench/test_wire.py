"""The benchmark's own client: what it sends and what it makes of an answer."""

import asyncio
from email import message_from_bytes

import pytest

from tests.bench.by_hand import _without
from tests.bench.wire import BOUNDARY, Origin, Refused, form, unique_file


async def answered(answer: bytes) -> tuple[bytes, str]:
    """What the client makes of an answer, and the first line that it sent."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0])
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Origin(port, "token").connected() as wire:
        return await wire.exchange("GET", "/tasks"), asked[0]


async def test_a_body_of_known_length_is_read_whole() -> None:
    """Content-Length says where it ends."""
    body, first = await answered(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    assert body == b"hello"
    assert first == "GET /api/v1/tasks HTTP/1.1"


async def test_a_body_in_chunks_is_put_together() -> None:
    """RFC 9112, section 7.1: sizes are hexadecimal and the last is zero."""
    body, _ = await answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
    assert body == b"hello"


async def test_an_error_is_not_taken_for_an_answer() -> None:
    """A refused submission must not count as one."""
    with pytest.raises(Refused, match="503 busy"):
        await answered(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")


def test_a_submission_is_a_form_that_others_can_read() -> None:
    """The standard library's parser finds the same fields and the same bytes."""
    content = unique_file(2048)
    head = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    message = message_from_bytes(head + form(content, "sample.sh", (("plugin", "syscalls"),)))
    parts = [(part.get_param("name", header="content-disposition"), part.get_payload(decode=True))
             for part in message.walk() if not part.is_multipart()]  # fmt: skip
    assert parts == [("plugin", b"syscalls"), ("file", content)]


def test_no_two_files_are_alike() -> None:
    """A sample that is known already would cost less than one that is new."""
    assert unique_file(14336) != unique_file(14336)
    assert 14300 < len(unique_file(14336)) <= 14336


def test_options_that_only_libvirt_can_hold_are_left_out_with_their_values() -> None:
    """The bare QEMU is given everything else, as it was."""
    argv = ["qemu", "-nodefaults", "-S", "-object", '{"id":"masterKey0"}', "-sandbox", "on", "-m", "512"]
    assert _without(argv) == ["qemu", "-nodefaults", "-m", "512"]
