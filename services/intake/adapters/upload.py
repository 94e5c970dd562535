"""Receives a multipart body: options and a small file into memory, a larger one into a temporary file; hashed once.

Memory stays flat whatever the size: at most `MEMORY_MAX_BYTES` of a file are held, of as many uploads at once as intake
has places for (`uploads_max`). The temporary file has no name: a crash leaves nothing behind.
"""

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from contracts.blobs import BlobRef
from services.intake.domain.form import FILE_FIELD, check_field_name
from services.intake.errors import NotYet, Refusal

MEMORY_MAX_BYTES = 1024 * 1024
"""A file of so many bytes never touches the scratch directory; of a larger one as many are gathered for each write."""
HASHED_AT_ONCE_BYTES = 128 * 1024  # by the event loop itself; with more, other requests would wait for milliseconds
FIELD_MAX_BYTES = 32 * 1024
PARTS_MAX = 256
OVERHEAD_MAX_BYTES = 4 * 1024 * 1024
PLAIN_ENCODINGS = frozenset({b"", b"7bit", b"8bit", b"binary"})
DISK_RETRY_S = 30


@dataclass(frozen=True)
class Upload:
    """What arrived. `content` is in memory or a path, readable until the upload is closed; `name_sent` is raw."""

    content: bytes | Path
    blob: BlobRef
    name_sent: bytes
    fields: tuple[tuple[str, str], ...]


@dataclass
class _Part:
    """One part of the body while it arrives."""

    name: str
    is_file: bool
    value: bytearray = field(default_factory=bytearray)


@contextlib.asynccontextmanager
async def received(
    chunks: AsyncIterator[bytes],
    *,
    content_type: str,
    scratch_dir: Path,
    sample_max_bytes: int,
    idle_timeout_s: float,
) -> AsyncIterator[Upload]:
    """The whole upload; its file, if it needed one, is gone afterwards.

    Raises Refusal for a body that is not acceptable, NotYet when the disk cannot take it.
    """
    with contextlib.ExitStack() as stack:

        def make_file() -> IO[bytes]:
            return stack.enter_context(tempfile.TemporaryFile(dir=scratch_dir, prefix="upload-", buffering=0))

        receiver = _Receiver(boundary_of(content_type), make_file, sample_max_bytes)
        with _disk_faults():
            await _receive(chunks, receiver, sample_max_bytes + OVERHEAD_MAX_BYTES, idle_timeout_s)
        yield receiver.upload()


@contextlib.contextmanager
def _disk_faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotYet(
            "storage_unavailable",
            f"The upload cannot be stored now ({error.strerror}); nothing was accepted.",
            retry_after_s=DISK_RETRY_S,
        ) from error


def boundary_of(content_type: str) -> bytes:
    """The multipart boundary. Raises Refusal 415 for any other type, 400 without a boundary."""
    kind, options = parse_options_header(content_type.encode("latin-1", errors="replace").decode("latin-1"))
    if kind != b"multipart/form-data":
        raise Refusal(
            "unsupported_media_type",
            "Send the sample as a form.",
            allowed=("multipart/form-data",),
            status=415,
        )
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:  # noqa: PLR2004 - RFC 2046 has 70; some clients send more
        raise Refusal("malformed_body", "The multipart boundary is missing or too long.", status=400)
    return boundary


async def _receive(
    chunks: AsyncIterator[bytes], receiver: "_Receiver", body_max_bytes: int, idle_timeout_s: float
) -> None:
    total = 0
    try:
        while True:
            async with asyncio.timeout(idle_timeout_s):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            total += len(chunk)
            if total > body_max_bytes:
                raise receiver.too_large()
            receiver.feed(chunk)
            await receiver.spill()
        await receiver.finish()
    except FormParserError as error:
        raise Refusal("malformed_body", f"The form is malformed: {error}"[:300], status=400) from error
    except TimeoutError as error:
        raise Refusal("upload_stalled", f"Nothing arrived for {idle_timeout_s:g} seconds.", status=408) from error
    except ClientDisconnect as error:
        raise Refusal("upload_abandoned", "The client went away.", status=400) from error


class _Receiver:
    """Follows the parser's callbacks. What belongs to the file waits in `_pending`, and stays there if it is little."""

    def __init__(self, boundary: bytes, make_file: Callable[[], IO[bytes]], sample_max_bytes: int) -> None:
        self._make_file = make_file
        self._file: IO[bytes] | None = None
        self._sample_max_bytes = sample_max_bytes
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._pending = bytearray()
        self._fields: list[tuple[str, str]] = []
        self._name_sent: bytes | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._part: _Part | None = None
        self._parts = 0
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """The chunk is parsed. Raises FormParserError, Refusal."""
        self._parser.write(chunk)

    async def spill(self) -> None:
        """No more than `MEMORY_MAX_BYTES` of the file are in memory. Raises OSError."""
        if len(self._pending) > MEMORY_MAX_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        pending, self._pending = self._pending, bytearray()
        await anyio.to_thread.run_sync(self._write, pending)

    async def finish(self) -> None:
        """The body has ended. Raises Refusal unless it was whole and had one file with something in it."""
        if not self._is_complete:
            raise Refusal("malformed_body", "The form ends in the middle.", status=400)
        if self._name_sent is None:
            raise Refusal("missing_file", "The form has no file.", pointer=f"/{FILE_FIELD}")
        if self._size_bytes == 0:
            raise Refusal("empty_file", "The file is empty: there is nothing to analyse.", pointer=f"/{FILE_FIELD}")
        if self._file is not None:
            await self._flush()
        elif self._size_bytes > HASHED_AT_ONCE_BYTES:
            await anyio.to_thread.run_sync(self._digest.update, self._pending)
        else:
            self._digest.update(self._pending)

    def upload(self) -> Upload:
        """What was received. The bytes are the upload's from now on: no second copy stays here."""
        pending, self._pending = self._pending, bytearray()
        return Upload(
            content=bytes(pending) if self._file is None else Path(f"/proc/self/fd/{self._file.fileno()}"),
            blob=BlobRef(sha256=self._digest.hexdigest(), size_bytes=self._size_bytes),
            name_sent=self._name_sent or b"",
            fields=tuple(self._fields),
        )

    def too_large(self) -> Refusal:
        """The refusal that says how much would have been taken."""
        return Refusal(
            "sample_too_large",
            f"The file has more than {self._sample_max_bytes} bytes, the limit here (sample_max_bytes of intake). "
            "Send the part that matters.",
            pointer=f"/{FILE_FIELD}",
            status=413,
        )

    def _write(self, pending: bytearray) -> None:
        if self._file is None:
            self._file = self._make_file()
        self._digest.update(pending)
        view = memoryview(pending)
        while view:
            view = view[self._file.write(view) :]

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise Refusal("too_many_values", f"The form has more than {PARTS_MAX} parts.")
        self._headers = {}

    def _on_header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        name = options.get(b"name", b"").decode("utf-8", errors="backslashreplace")
        if disposition != b"form-data" or not name:
            raise Refusal("malformed_body", "A part of the form has no name.", status=400)
        check_field_name(name)
        if self._headers.get(b"content-transfer-encoding", b"").strip().lower() not in PLAIN_ENCODINGS:
            raise Refusal("malformed_body", "Parts are taken as they are: send no transfer encoding.", status=400)
        self._part = _Part(name, is_file=name == FILE_FIELD)
        filename = options.get(b"filename")
        if self._part.is_file:
            self._begin_file(filename)
        elif filename is not None:
            raise Refusal("invalid_value", f"{name} was sent as a file; send its value.", pointer=f"/{name}")

    def _begin_file(self, filename: bytes | None) -> None:
        if filename is None:
            raise Refusal(
                "missing_file",
                "file was sent as text; with curl, write -F file=@PATH.",
                pointer=f"/{FILE_FIELD}",
            )
        if self._name_sent is not None:
            raise Refusal("too_many_values", "Send one file per submission.", pointer=f"/{FILE_FIELD}")
        self._name_sent = filename

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is None:
            return
        if part.is_file:
            self._size_bytes += end - start
            if self._size_bytes > self._sample_max_bytes:
                raise self.too_large()
            self._pending += data[start:end]
            return
        part.value += data[start:end]
        if len(part.value) > FIELD_MAX_BYTES:
            raise Refusal(
                "value_too_long", f"{part.name} has more than {FIELD_MAX_BYTES} bytes.", pointer=f"/{part.name}"
            )

    def _on_part_end(self) -> None:
        part, self._part = self._part, None
        if part is None or part.is_file:
            return
        try:
            self._fields.append((part.name, part.value.decode()))
        except UnicodeDecodeError as error:
            raise Refusal("invalid_value", f"{part.name} is not UTF-8.", pointer=f"/{part.name}") from error

    def _on_end(self) -> None:
        self._is_complete = True
