"""Encrypted 7z archives, which libarchive cannot open. Only these: a stated size is believed less by libarchive."""

from pathlib import Path

import py7zr
from py7zr.io import Py7zIO, WriterFactory

from .budget import ArchiveSpent, BudgetSpent
from .visit import Member, Spool, Visit

HEADER_MAX_BYTES = 4 * 1024 * 1024  # py7zr builds an object for each entry that the header names


def read(path: Path, visit: Visit) -> None:
    """Every file was offered to the visit, with the first password that fits, or the problem says that none does.

    Raises MemoryError and UnsupportedCompressionMethodError for what no password opens.
    """
    with path.open("rb") as stream:
        stated = int.from_bytes(stream.read(32)[20:28], "little")
    if stated > HEADER_MAX_BYTES:
        visit.problem(f"{visit.where}: a header of {stated} bytes; at most {HEADER_MAX_BYTES} are read")
        return
    visit.is_encrypted = True
    for password in visit.passwords:
        if _unpacked(path, password, visit):
            visit.password = password
            return
    visit.problem(f"{visit.where}: none of {len(visit.passwords)} passwords opens it")


def _unpacked(path: Path, password: str, visit: Visit) -> bool:
    """Whether the password was the right one. Raises what is not the password's fault."""
    sink = _Sink(visit)
    try:
        with path.open("rb") as stream, py7zr.SevenZipFile(stream, "r", password=password) as archive:
            archive.extractall(factory=sink)
    except (ArchiveSpent, BudgetSpent):
        sink.keep(is_whole=False)
        raise
    except (MemoryError, py7zr.UnsupportedCompressionMethodError):  # whatever the password
        sink.discard()
        raise
    except Exception:  # noqa: BLE001 - a wrong key feeds noise to the decoders, and each of them has errors of its own
        sink.discard()
        return False
    sink.keep(is_whole=True)
    return True


class _Sink(WriterFactory):
    """Gives py7zr a spool instead of a path."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._spools: list[Spool] = []

    def create(self, filename: str) -> Py7zIO:
        """The spool of one file. Its name is only shown. Raises BudgetSpent."""
        spool = self._visit.member(Member(filename))
        if spool is not None:
            self._spools.append(spool)
        return _Writer(spool)

    def keep(self, *, is_whole: bool) -> None:
        """What came is handed on; the last file only if all is whole."""
        if self._spools and not is_whole:
            self._spools.pop().remove()
        for spool in self._spools:
            spool.close()
            self._visit.keep(spool)

    def discard(self) -> None:
        """Nothing of it is left."""
        self._visit.entries = 0
        for spool in self._spools:
            spool.remove()


class _Writer(Py7zIO):
    """What has no spool is dropped."""

    def __init__(self, spool: Spool | None) -> None:
        self._spool = spool

    def write(self, s: bytes | bytearray) -> int:
        if self._spool is not None:
            self._spool.write(bytes(s))
        return len(s)

    def read(self, size: int | None = None) -> bytes:
        del size
        return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        del whence
        return offset

    def flush(self) -> None:
        return

    def size(self) -> int:
        return self._spool.size_bytes if self._spool is not None else 0
