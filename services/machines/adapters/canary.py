"""The canary of a lease as the host knows it: what it looks like, and whether a file has one.

It is planted with the enrolment, before a sample runs: in the agent's memory, on the disk past every cache and in the
firmware's variables. The next incarnation has to be without: its agent is asked, and its files are searched as bytes.
"""

import hashlib
from pathlib import Path

START = b"malbox-canary:"
_PIECE_BYTES = 4 * 1024 * 1024


def of_lease(machine_id: str, lease_id: str, epoch: int) -> bytes:
    """The mark of that lease, another one for each."""
    return START + hashlib.sha256(f"{machine_id}/{lease_id}/{epoch}".encode()).hexdigest().encode("ascii")


def is_in(path: Path) -> bool:
    """Whether the file's bytes hold a canary of any lease, whatever its format means by them. Raises OSError."""
    tail = b""
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            if START in tail + piece:
                return True
            tail = piece[-len(START) :]
    return False
