"""One byte of a file, changed so that as little as possible shows."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def flip(path: Path, offset: int) -> None:
    """One bit of the byte at the offset is another; length, inode, mode and both settable times are as before."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b", buffering=0) as stream:
        stream.seek(offset)
        was = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([was ^ 0x10]))
    path.chmod(before.st_mode & 0o7777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextlib.contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """The byte is another one for as long as the block runs."""
    flip(path, offset)
    try:
        yield
    finally:
        flip(path, offset)
