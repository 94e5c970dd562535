"""Files that the host puts into the guest: taken in whole, or not at all."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from contracts.guest import agent_pb2 as pb
from guest import limits


class StepRefused(Exception):
    """The step cannot be taken now, or not with this; the message says why."""


def receive(part: Path, header: pb.PutHeader, pieces: Iterator[bytes]) -> None:
    """The file holds exactly what was announced. Raises StepRefused, OSError."""
    digest, count = hashlib.sha256(), 0
    with part.open("wb") as file:
        for piece in pieces:
            count += len(piece)
            if count > header.size_bytes:
                raise StepRefused("more bytes came than were announced")
            digest.update(piece)
            file.write(piece)
    if count != header.size_bytes or digest.digest() != header.sha256:
        raise StepRefused("the bytes are not those that were announced")


def move(part: Path, target: Path) -> None:
    """Copied, not renamed: the two directories may be on different file systems. Never written through a link."""
    target.unlink(missing_ok=True)
    with part.open("rb") as source, target.open("xb") as copy:
        while piece := source.read(limits.PIECE_BYTES):
            copy.write(piece)
