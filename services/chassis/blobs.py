"""Bytes by reference: a content-addressed store over `obstore`. On local disk a blob is durable when `put` returns."""

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from contracts.blobs import BlobRef
from services.chassis.crash_points import Point, around
from services.chassis.errors import PermanentError, TransientError

CHUNK_BYTES = 1024 * 1024


class BlobMissing(PermanentError):
    """the object store has no such bytes"""


class BlobStoreFailed(TransientError):
    """the object store could not be used"""


class BlobStore:
    """Blobs under `sha256/ab/cd/<sha256>` of a local directory, each written once and never changed."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._store = LocalStore(str(root), mkdir=True)

    @staticmethod
    def key(sha256: str) -> str:
        """Where the store keeps the bytes with that hash."""
        return f"sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"

    def local_path(self, sha256: str) -> Path:
        """The file that holds the blob, for handing it read-only to a sandbox."""
        return self._root / self.key(sha256)

    async def put_bytes(self, content: bytes, *, known: BlobRef | None = None) -> BlobRef:
        """The bytes are durable. `known` as with `put_file`. Raises BlobStoreFailed."""
        return await anyio.to_thread.run_sync(self._put_bytes, content, known)

    async def put_file(self, path: Path, *, known: BlobRef | None = None) -> BlobRef:
        """The file's bytes are durable; memory stays flat. Raises BlobStoreFailed.

        `known` is what the caller found when it hashed the bytes itself; without it they are hashed here.
        """
        return await anyio.to_thread.run_sync(self._put_file, path, known)

    async def size(self, sha256: str) -> int | None:
        """How many bytes the blob has, or None when it is not there."""
        try:
            with _translated(f"look for {sha256}"):
                return (await self._store.head_async(self.key(sha256)))["size"]
        except FileNotFoundError:
            return None

    async def read(self, sha256: str, *, limit_bytes: int) -> bytes:
        """The whole blob, when it is no longer than the limit. Raises BlobMissing, PermanentError over the limit."""
        size = await self.size(sha256)
        if size is None:
            raise BlobMissing(f"no blob {sha256}")
        if size > limit_bytes:
            raise PermanentError(f"blob {sha256} has {size} bytes; the limit here is {limit_bytes}")
        with _translated(f"read {sha256}"):
            return bytes(await (await self._store.get_async(self.key(sha256))).bytes_async())

    async def stream(self, sha256: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end` (exclusive) in chunks. Raises BlobMissing."""
        size = await self.size(sha256)
        if size is None:
            raise BlobMissing(f"no blob {sha256}")
        stop = size if end is None else min(end, size)
        for offset in range(start, stop, CHUNK_BYTES):
            length = min(CHUNK_BYTES, stop - offset)
            with _translated(f"read {sha256}"):
                chunk = bytes(await self._store.get_range_async(self.key(sha256), start=offset, length=length))
            yield chunk

    def _put_bytes(self, content: bytes, known: BlobRef | None) -> BlobRef:
        sha256 = hashlib.sha256(content).hexdigest() if known is None else known.sha256
        return self._store_durably(sha256, len(content), content)

    def _put_file(self, path: Path, known: BlobRef | None) -> BlobRef:
        if known is not None:
            return self._store_durably(known.sha256, known.size_bytes, path)
        with path.open("rb") as stream:
            digest, size = _digest(stream)
            return self._store_durably(digest, size, path)

    def _store_durably(self, sha256: str, size: int, content: bytes | Path) -> BlobRef:
        key = self.key(sha256)
        with _translated(f"store {size} bytes"):
            if not self._has(key, size):
                self._store.put(key, content)
            # Also what stood there before: whoever wrote it may have died before it was on the disk.
            with around(Point.BLOB_BEFORE, Point.BLOB_AFTER):
                _sync(self._root / key)
        return BlobRef(sha256=sha256, size_bytes=size)

    def _has(self, key: str, size: int) -> bool:
        try:
            return bool(self._store.head(key)["size"] == size)
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def _translated(purpose: str) -> Iterator[None]:
    """Faults of the store (a full disk is obstore's own error, not an OSError) become BlobStoreFailed."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, BaseError) as error:
        raise BlobStoreFailed(f"cannot {purpose}: {str(error).splitlines()[0]}") from error


def _digest(stream: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _sync(path: Path) -> None:
    for target in (path, path.parent):
        handle = os.open(target, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
