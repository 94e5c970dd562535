"""ZIP, with the classic encryption and AES. Sizes and places that the directory states are checked before use.

CPython's zipfile up to 3.11.7, and with it pyzipper, takes entries that share their bytes; here they are looked for.
"""

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyzipper

from .budget import ArchiveSpent
from .visit import TOO_LARGE, Member, Spool, Visit

CHUNK_BYTES = 256 * 1024
DIRECTORY_MAX_BYTES = 8 * 1024 * 1024  # an object of about 1 KiB is built for every 46 bytes of it
IS_ENCRYPTED = 0x1
IS_UTF8 = 0x800
_TAIL_BYTES = 22 + 65_535  # APPNOTE 4.3.16: the end record, and the longest comment behind it
_LOCAL_HEADER_BYTES = 30  # APPNOTE 4.3.7
_DOCUMENTS = frozenset({"[Content_Types].xml", "mimetype", "AndroidManifest.xml"})
_SYMBOLIC_LINK = 0o120000
_KIND_MASK = 0o170000


class IsDocument(Exception):
    """The ZIP is the container of a document or a package, which other plugins read."""


def read(path: Path, visit: Visit) -> None:
    """Every entry was offered to the visit. Raises IsDocument, and whatever pyzipper meets in a broken archive."""
    with path.open("rb") as stream:
        stated = _directory_bytes(stream)
        if stated > DIRECTORY_MAX_BYTES:
            visit.budget.note("entries", visit.budget.entries, visit.where)
            raise ArchiveSpent(f"{visit.where}: a directory of {stated} bytes; at most {DIRECTORY_MAX_BYTES} are read")
        with pyzipper.AESZipFile(stream) as archive:
            entries = archive.infolist()
            if not _DOCUMENTS.isdisjoint(entry.filename for entry in entries):
                raise IsDocument
            shared = _sharing(stream, entries)
            for entry in entries:
                _take(archive, entry, visit, is_shared=entry.header_offset in shared)


def _take(archive: Any, entry: Any, visit: Visit, *, is_shared: bool) -> None:
    is_encrypted = bool(entry.flag_bits & IS_ENCRYPTED)
    visit.is_encrypted |= is_encrypted
    is_link = (entry.external_attr >> 16) & _KIND_MASK == _SYMBOLIC_LINK
    kind = "directory" if entry.is_dir() else "symbolic link" if is_link else "file"
    if is_shared and kind == "file":
        visit.entry()
        visit.budget.note("overlap", 0, visit.where)
        visit.problem(f"{visit.where}: entries share their bytes; only the first of them is unpacked")
        return
    spool = visit.member(Member(entry.filename, entry.file_size, kind))
    if spool is not None:
        with contextlib.suppress(_NotUnpacked), spool:
            _unpack(archive, entry, visit, spool, is_encrypted=is_encrypted)
            visit.keep(spool)


class _NotUnpacked(Exception):
    """The entry stays packed; the problem is said."""


def _unpack(archive: Any, entry: Any, visit: Visit, spool: Spool, *, is_encrypted: bool) -> None:
    fault = ""
    for password in _candidates(visit) if is_encrypted else (None,):
        try:
            _copy(archive, entry, spool, password)
        except ArchiveSpent as spent:
            visit.problem(str(spent))
            raise _NotUnpacked from spent
        except (MemoryError, NotImplementedError) as error:  # whatever the password
            visit.problem(f"{spool.where}: {error if isinstance(error, NotImplementedError) else TOO_LARGE}")
            raise _NotUnpacked from error
        except (
            RuntimeError,
            zipfile.BadZipFile,
            pyzipper.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            OSError,
            EOFError,
            ValueError,
        ) as error:
            fault = str(error)  # a wrong password shows as any of these: the check has 8 or 16 bits only
            spool.restart()
        else:
            visit.password = password or visit.password
            return
    words = f"none of {len(visit.passwords)} passwords opens it" if is_encrypted else fault
    visit.problem(f"{spool.where}: {words}")
    raise _NotUnpacked


def _copy(archive: Any, entry: Any, spool: Spool, password: str | None) -> None:
    with archive.open(entry, pwd=password.encode() if password is not None else None) as source:
        while chunk := source.read(CHUNK_BYTES):
            spool.write(chunk)


def _candidates(visit: Visit) -> Iterator[str]:
    """The password that opened the entry before this one comes first."""
    if visit.password is not None:
        yield visit.password
    yield from (password for password in visit.passwords if password != visit.password)


def _directory_bytes(stream: BinaryIO) -> int:
    """How long the archive says that its central directory is; 0 where the end record is not found."""
    stream.seek(0, 2)
    size = stream.tell()
    stream.seek(max(0, size - _TAIL_BYTES))
    tail = stream.read(_TAIL_BYTES)
    at = tail.rfind(b"PK\x05\x06")
    stated = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    zip64 = tail.rfind(b"PK\x06\x06")
    if zip64 >= 0:
        stated = max(stated if stated != 0xFFFFFFFF else 0, int.from_bytes(tail[zip64 + 40 : zip64 + 48], "little"))  # noqa: PLR2004 - APPNOTE 4.4.1.4
    return stated


def _sharing(stream: BinaryIO, entries: list[Any]) -> frozenset[int]:
    """Where the entries begin that begin inside another one."""
    shared: set[int] = set()
    end = 0
    seen: set[int] = set()
    for entry in sorted(entries, key=lambda one: one.header_offset):
        if entry.header_offset < end or entry.header_offset in seen:
            shared.add(entry.header_offset)
        seen.add(entry.header_offset)
        end = max(end, entry.header_offset + _header_bytes(stream, entry.header_offset) + entry.compress_size)
    return frozenset(shared)


def _header_bytes(stream: BinaryIO, offset: int) -> int:
    stream.seek(offset)
    header = stream.read(_LOCAL_HEADER_BYTES)
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return _LOCAL_HEADER_BYTES + name + extra
