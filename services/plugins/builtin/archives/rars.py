"""Which files of a RAR archive of version 5 are encrypted (RAR 5.0 archive format, general archive block format).

libarchive 3.6 reads their bytes as if they were plain, and says nothing of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SIGNATURE_BYTES = 8
SUM_BYTES = 4
SIZE_MAX_BYTES = 3  # of the number that says how long a header is: 2 MiB at most
BLOCKS_MAX = 20_000  # twice the entries that are read of all archives together
NUMBER_MAX_BYTES = 10  # of 64 bits; what is longer costs time by the square of its length
RECORDS_MAX = 100  # of one file; the format knows seven kinds
FILE, END = 2, 5
HAS_EXTRA, HAS_CONTENT = 1, 2
ENCRYPTION = 1


def encrypted(path: Path) -> frozenset[int]:
    """The numbers, from 0 on, of the encrypted files; as far as the headers can be read."""
    found: set[int] = set()
    files = 0
    with path.open("rb") as stream:
        try:
            for kind, extra in _blocks(stream):
                if kind == FILE:
                    if _is_encrypted(extra):
                        found.add(files)
                    files += 1
        except (IndexError, OverflowError, OSError, ValueError):  # cut off, or numbers that lead nowhere
            pass
    return frozenset(found)


def _blocks(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Kind and extra area of each block up to the end. Raises IndexError before it, ValueError of long numbers."""
    stream.seek(SIGNATURE_BYTES)
    for _ in range(BLOCKS_MAX):
        start = stream.read(SUM_BYTES + SIZE_MAX_BYTES)
        size, at = _number(start, SUM_BYTES)
        stream.seek(at - len(start), 1)
        header = stream.read(size)
        kind, at = _number(header, 0)
        flags, at = _number(header, at)
        extra_bytes, at = _number(header, at) if flags & HAS_EXTRA else (0, at)
        content_bytes, at = _number(header, at) if flags & HAS_CONTENT else (0, at)
        yield kind, header[max(0, len(header) - extra_bytes) :]
        if kind == END:
            return
        stream.seek(content_bytes, 1)


def _is_encrypted(extra: bytes) -> bool:
    """Whether a record says so, or there are more of them than anybody writes: such a file is not believed either."""
    at = 0
    for _ in range(RECORDS_MAX):
        if at >= len(extra):
            return False
        size, at = _number(extra, at)
        kind, _end = _number(extra, at)
        if kind == ENCRYPTION:
            return True
        at += size
    return True


def _number(content: bytes, at: int) -> tuple[int, int]:
    """The number that stands there, seven bits in each byte, and where it ends. Raises IndexError, ValueError."""
    value = 0
    for place in range(NUMBER_MAX_BYTES):
        byte = content[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:  # noqa: PLR2004 - the upper bit says that there is more
            return value, at + place + 1
    raise ValueError(at)
