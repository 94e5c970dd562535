"""A multipart body is received in a stream, hashed on the way, and refused for exactly what is wrong with it."""

import contextlib
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.intake.adapters.upload import MEMORY_MAX_BYTES, OVERHEAD_MAX_BYTES, PARTS_MAX, received
from services.intake.errors import NotYet, Refusal

BOUNDARY = "limit"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, value: bytes, *, filename: bytes | None = None, extra: bytes = b"") -> bytes:
    named = b"" if filename is None else b'; filename="' + filename + b'"'
    head = b"--limit\r\nContent-Disposition: form-data; name=" + f'"{name}"'.encode() + named + b"\r\n" + extra
    return head + b"\r\n" + value + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--limit--\r\n"


FILE = part("file", b"MZ sample", filename=b"a.exe")


async def in_pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def receive(
    content: bytes, scratch: Path, *, size: int = 7, limit: int = 1000, content_type: str = TYPE
) -> tuple[bytes, bytes, Sequence[tuple[str, str]], str]:
    chunks = in_pieces(content, size)
    async with received(
        chunks, content_type=content_type, scratch_dir=scratch, sample_max_bytes=limit, idle_timeout_s=2
    ) as upload:
        content = upload.content if isinstance(upload.content, bytes) else upload.content.read_bytes()
        return content, upload.name_sent, upload.fields, upload.blob.sha256


@pytest.mark.promise("G7", "P43")
@pytest.mark.parametrize("size", [1, 3, 64, 10_000])
async def test_a_form_is_received_whole_however_it_is_cut(tmp_path: Path, size: int) -> None:
    """Fields before and after the file arrive, and the hash is that of the file's bytes."""
    content = body(part("route", b"none"), FILE, part("custom", "grün".encode()))
    stored, name, fields, digest = await receive(content, tmp_path, size=size)
    assert stored == b"MZ sample"
    assert digest == hashlib.sha256(b"MZ sample").hexdigest()
    assert name == b"a.exe"
    assert fields == (("route", "none"), ("custom", "grün"))


@pytest.mark.promise("P43", "A3")
@pytest.mark.parametrize(
    ("content", "code", "status"),
    [
        (body(part("route", b"none")), "missing_file", 422),
        (body(part("file", b"/tmp/x")), "missing_file", 422),
        (body(part("file", b"", filename=b"a")), "empty_file", 422),
        (body(FILE, FILE), "too_many_values", 422),
        (body(FILE, part("memory", b"yes")), "unknown_field", 422),
        (body(FILE, part("route", b"none", filename=b"route.txt")), "invalid_value", 422),
        (body(FILE, part("custom", b"\xff\xfe")), "invalid_value", 422),
        (body(FILE, part("custom", b"x" * 40_000)), "value_too_long", 422),
        (body(FILE, *[part("tag", b"x")] * PARTS_MAX), "too_many_values", 422),
        (body(part("file", b"x" * 1001, filename=b"a")), "sample_too_large", 413),
        (body(FILE)[:-8], "malformed_body", 400),
        (b"", "malformed_body", 400),
        (b"nonsense" * 10, "malformed_body", 400),
        (b"--limit\r\nContent-Type: text/plain\r\n\r\nx\r\n--limit--\r\n", "malformed_body", 400),
        (
            body(part("file", b"eA==", filename=b"a", extra=b"Content-Transfer-Encoding: base64\r\n")),
            "malformed_body",
            400,
        ),
        (body(part("x\r\nX: y", b"", filename=b"a")), "unknown_field", 422),
    ],
)
async def test_a_bad_body_is_refused_for_what_is_wrong_with_it(
    tmp_path: Path, content: bytes, code: str, status: int
) -> None:
    """Each fault has its own code, and leaves no file behind."""
    with pytest.raises(Refusal) as caught:
        await receive(content, tmp_path, size=4096)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("application/json", 415), ("", 415), ("multipart/form-data", 400), (f"{TYPE}{'x' * 300}", 400)],
)
async def test_another_kind_of_body_is_refused(tmp_path: Path, content_type: str, status: int) -> None:
    """Only a form with a usable boundary is read."""
    with pytest.raises(Refusal) as caught:
        await receive(body(FILE), tmp_path, content_type=content_type)
    assert caught.value.status == status


async def test_an_endless_preamble_is_bounded(tmp_path: Path) -> None:
    """Bytes that belong to no part count against the limit as well."""

    async def endless() -> AsyncIterator[bytes]:
        yield body(FILE)
        while True:
            yield b"\r\n" * 100_000

    with pytest.raises(Refusal) as caught:
        async with received(endless(), content_type=TYPE, scratch_dir=tmp_path, sample_max_bytes=10, idle_timeout_s=2):
            pass
    assert caught.value.status in {400, 413}
    assert OVERHEAD_MAX_BYTES < 2**23


async def test_a_client_that_falls_silent_is_let_go(tmp_path: Path) -> None:
    """An upload that stalls does not hold its place for ever."""
    import asyncio  # noqa: PLC0415 - only this test waits

    async def stalling() -> AsyncIterator[bytes]:
        yield FILE
        await asyncio.sleep(30)

    with pytest.raises(Refusal) as caught:
        async with received(
            stalling(), content_type=TYPE, scratch_dir=tmp_path, sample_max_bytes=1000, idle_timeout_s=0.05
        ):
            pass
    assert caught.value.code == "upload_stalled"


LARGE = MEMORY_MAX_BYTES + 1


async def test_a_disk_that_takes_nothing_means_later_not_never(tmp_path: Path) -> None:
    """Where no file can be made for a large sample, the client is told to come again."""
    with pytest.raises(NotYet) as caught:
        await receive(body(part("file", b"x" * LARGE, filename=b"a")), tmp_path / "absent", size=65536, limit=LARGE)
    assert caught.value.code == "storage_unavailable"


@pytest.mark.promise("P43")
@pytest.mark.parametrize("size_bytes", [1, 200_000, MEMORY_MAX_BYTES])
async def test_a_small_file_needs_no_temporary_file(tmp_path: Path, size_bytes: int) -> None:
    """Up to a mebibyte the bytes stay in memory, hashed, and no scratch directory is looked at."""
    content = os.urandom(size_bytes)
    form = body(part("file", content, filename=b"a"), part("route", b"none"))
    received_content, _, fields, digest = await receive(form, tmp_path / "absent", size=65536, limit=size_bytes)
    assert received_content == content
    assert digest == hashlib.sha256(content).hexdigest()
    assert fields == (("route", "none"),)


@pytest.mark.promise("G7", "P43")
@pytest.mark.parametrize("size_bytes", [LARGE, 3 * MEMORY_MAX_BYTES])
async def test_a_large_file_is_read_from_an_unnamed_file(tmp_path: Path, size_bytes: int) -> None:
    """One byte more goes to the disk: whole, hashed, under no name, and gone when the upload is closed."""
    content = os.urandom(size_bytes)
    chunks = in_pieces(body(part("file", content, filename=b"a")), 65536)
    async with received(
        chunks, content_type=TYPE, scratch_dir=tmp_path, sample_max_bytes=size_bytes, idle_timeout_s=2
    ) as upload:
        assert isinstance(upload.content, Path)
        assert upload.content.read_bytes() == content
        assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert upload.blob.sha256 == hashlib.sha256(content).hexdigest()
    with pytest.raises(OSError, match="No such file"):
        upload.content.stat()


@pytest.mark.promise("P43")
async def test_what_stays_in_memory_is_bounded_by_the_uploads_at_once(tmp_path: Path) -> None:
    """Sixteen uploads of a mebibyte, all held at once, take sixteen mebibytes and not a copy more of each."""
    form = body(part("file", os.urandom(MEMORY_MAX_BYTES), filename=b"a"))
    tracemalloc.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(16):
                await stack.enter_async_context(
                    received(
                        in_pieces(form, 65536),
                        content_type=TYPE,
                        scratch_dir=tmp_path,
                        sample_max_bytes=2**30,
                        idle_timeout_s=5,
                    )
                )
            held_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 17 * MEMORY_MAX_BYTES
    assert peak_bytes < 19 * MEMORY_MAX_BYTES


@pytest.mark.promise("G7", "P43")
async def test_memory_stays_flat_for_a_large_file(tmp_path: Path) -> None:
    """Sixty-four megabytes pass through less than eight."""
    block = os.urandom(256 * 1024)

    async def large() -> AsyncIterator[bytes]:
        yield FILE.replace(b"MZ sample\r\n", b"")
        for _ in range(256):
            yield block
        yield b"\r\n--limit--\r\n"

    tracemalloc.start()
    try:
        async with received(
            large(), content_type=TYPE, scratch_dir=tmp_path, sample_max_bytes=2**30, idle_timeout_s=5
        ) as upload:
            peak = tracemalloc.get_traced_memory()[1]
            assert upload.blob.size_bytes == 256 * len(block)
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


@pytest.mark.promise("A3")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from([b"--limit", b"\r\n", b"--limit--", FILE, b'Content-Disposition: form-data; name="file"; ']),
        max_size=8,
    )
)
async def test_any_bytes_are_received_or_refused(tmp_path: Path, pieces: list[bytes]) -> None:
    """Whatever a client sends as a form, there is no third outcome."""
    content = b"".join(pieces)
    outcome: Refusal | bytes
    try:
        outcome = (await receive(content, tmp_path))[0]
    except Refusal as refusal:
        outcome = refusal
    assert outcome.status in {400, 413, 422} if isinstance(outcome, Refusal) else outcome in content
