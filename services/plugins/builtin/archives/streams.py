"""Everything but ZIP, read by libarchive as a stream: one entry after another, nothing written but what is counted."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The library is found by its name: looking it up asks a compiler and /etc, which a sandbox does not have.
os.environ.setdefault("LIBARCHIVE", "libarchive.so.13")

from libarchive import ffi
from libarchive.exception import ArchiveError
from libarchive.read import ArchiveRead, new_archive_read

from . import rars
from .budget import ArchiveSpent
from .kinds import COMPRESSED, HEAD_BYTES, STREAMED, recognised
from .visit import Member, Visit

BLOCK_BYTES = 64 * 1024
_is_data_encrypted = ffi.ffi("entry_is_data_encrypted", [ffi.c_archive_entry_p], ffi.c_int)
_READERS = {"7z": "7zip"}
"""libarchive's word for a kind, where it is another one."""


class NeedsPassword(Exception):
    """The content is encrypted, and this reader has no key to it."""


def read(path: Path, kind: str, visit: Visit) -> None:
    """Every entry was offered to the visit. Raises NeedsPassword, ArchiveError for what cannot be read further."""
    try:
        with _opened(path, kind) as archive:
            unread = rars.encrypted(path) if kind == "rar5" else frozenset()
            for number, entry in enumerate(archive):
                _take(entry, visit, is_unreadable=number in unread or (kind == "rar" and _is_encrypted(entry)))
    except ArchiveError as error:
        if "encrypt" in str(error).lower():
            raise NeedsPassword from error
        if "too many filters" in str(error):  # it undoes up to 25 compressions, one inside the other, by itself
            visit.budget.note("depth", visit.budget.depth, visit.where)
        raise


@contextlib.contextmanager
def _opened(path: Path, kind: str) -> Iterator[ArchiveRead]:
    """A stream that was compressed is the archive that it begins like, or one file."""
    if kind not in COMPRESSED:
        with _reader(path, _READERS.get(kind, kind), "none") as archive:
            yield archive
        return
    with _reader(path, "raw", kind) as archive:
        inner = recognised(next((next(entry.get_blocks(HEAD_BYTES), b"") for entry in archive), b""))
    with _reader(path, inner if inner in STREAMED else "raw", kind) as archive:
        yield archive


@contextlib.contextmanager
def _reader(path: Path, reader: str, compression: str) -> Iterator[ArchiveRead]:
    with new_archive_read(reader, compression) as pointer:
        ffi.read_open_filename_w(pointer, str(path), BLOCK_BYTES)
        yield ArchiveRead(pointer)


def _take(entry: Any, visit: Visit, *, is_unreadable: bool) -> None:
    name, size = entry.pathname, entry.size
    spool = visit.member(Member(_text(name), size, _kind(entry), _text(entry.linkpath)))
    if spool is None:
        return
    if is_unreadable:
        visit.is_encrypted = True
        visit.problem(f"{spool.where}: encrypted {visit.format} archives cannot be opened")
        spool.remove()
        return
    try:
        with spool:
            for block in entry.get_blocks(BLOCK_BYTES):
                spool.write(block)
    except ArchiveSpent as spent:
        visit.problem(str(spent))
    except ArchiveError as error:
        if "encrypted" in str(error).lower() or error.retcode <= ffi.ARCHIVE_FATAL:
            raise
        visit.problem(f"{spool.where}: {error}")
    else:
        visit.keep(spool)


def _is_encrypted(entry: Any) -> bool:
    return bool(_is_data_encrypted(entry._entry_p))  # noqa: SLF001 - the binding has no word for it


def _kind(entry: Any) -> str:
    if entry.islnk:
        return "hard link"
    if entry.isdir:
        return "directory"
    if entry.issym:
        return "symbolic link"
    return "device" if entry.isdev else "file"


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
