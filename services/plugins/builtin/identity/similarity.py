"""Digests that stay alike when the bytes stay alike: TLSH and ssdeep."""

from pathlib import Path

import ppdeep
import tlsh

CHUNK_BYTES = 1024 * 1024
TLSH_MIN_BYTES = 50  # Oliver, Cheng and Chen 2013: fewer bytes do not fill the buckets
SSDEEP_MAX_BYTES = 4 * 1024 * 1024  # pure Python: 0.2 s for each MiB, 2.5 s where all bytes are alike (16 rounds)
NO_TLSH = "TNULL"


def tlsh_of(path: Path) -> str | None:
    """The TLSH digest, or None where the file is too short or too uniform for one. Raises OSError."""
    if path.stat().st_size < TLSH_MIN_BYTES:
        return None
    digest = tlsh.Tlsh()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    try:
        digest.final()
        found = str(digest.hexdigest())
    except ValueError:  # not enough variance
        return None
    return None if found in ("", NO_TLSH) else found


def ssdeep_of(path: Path) -> str | None:
    """The ssdeep digest, or None for a file that is empty or over the limit. Raises OSError."""
    if not 0 < path.stat().st_size <= SSDEEP_MAX_BYTES:
        return None
    return str(ppdeep.hash(path.read_bytes()))
