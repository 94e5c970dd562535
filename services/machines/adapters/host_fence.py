"""The host's own memory of who acted for a machine last: an epoch and a claim of its work, durable, per machine.

Whoever acts for a machine first raises its fence to the epoch and claim that it acts for, and acts while holding the
machine's lock. A stale owner or worker, however late it wakes, meets a higher fence and is refused, whatever the
services believe.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.chassis.crash_points import Point, reached
from services.machines.domain.fence import UNTOUCHED, Claim, Fence
from services.machines.errors import HypervisorRefused, HypervisorUnavailable

_LOCK_POLL_S = 0.02
_FENCE = "fence"


class HostFence:
    """The fence of one machine, kept in its directory. Safe between threads and between processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return self._directory / _FENCE

    def stands(self) -> Fence:
        """How it stands; below everything when this host never acted. Raises HypervisorRefused."""
        try:
            return Fence.read(self.path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return UNTOUCHED
        except ValueError as error:
            raise HypervisorRefused(f"the fence of {self._directory.name} cannot be read: {error}") from error

    def highest(self) -> int:
        """The highest epoch that this host acted for; -1 when it never did. Raises HypervisorRefused."""
        return self.stands().epoch

    def advance(self, epoch: int, claim: Claim | None = None) -> None:
        """The fence stands at `epoch` and `claim`, on disk. Raises StaleEpoch, StaleClaim when it stood higher."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._directory / "fence.lock", timeout_s=5):
            stood = self.stands()
            stood.refuse_older(self._directory.name, epoch, claim)
            if (raised := stood.raised(epoch, claim)) != stood:
                self._write(raised)

    def check(self, epoch: int, claim: Claim | None = None) -> None:
        """Nothing acted for a later epoch, nor under a later claim of this one. Raises StaleEpoch, StaleClaim."""
        self.stands().refuse_older(self._directory.name, epoch, claim)

    @contextmanager
    def acting(self, epoch: int, claim: Claim | None = None, *, timeout_s: float) -> Iterator[None]:
        """Nobody else acts on the machine meanwhile, and nobody later has. Raises StaleEpoch, StaleClaim.

        Raises HypervisorUnavailable when another action holds the machine for longer than `timeout_s`.
        """
        self.advance(epoch, claim)
        with _locked(self._directory / "lock", timeout_s=timeout_s):
            self.check(epoch, claim)
            yield

    def _write(self, fence: Fence) -> None:
        unfinished = self._directory / f".{_FENCE}"
        with unfinished.open("w", encoding="ascii") as stream:
            stream.write(str(fence))
            stream.flush()
            reached(Point.FENCE_BEFORE)
            os.fsync(stream.fileno())
        unfinished.rename(self.path)
        sync_directory(self._directory)
        reached(Point.FENCE_AFTER)


def highest_of_all(directory: Path) -> dict[str, int]:
    """The highest epoch of each machine that has a fence below the directory, by the machine's name."""
    fences: dict[str, int] = {}
    for path in directory.glob(f"*/{_FENCE}"):
        with suppress(HypervisorRefused):  # whoever acts for that machine is told
            fences[path.parent.name] = HostFence(path.parent).highest()
    return fences


def sync_directory(directory: Path) -> None:
    """Renames within the directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """An exclusive lock that the kernel drops with its holder's process."""
    with path.open("a") as stream:
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise HypervisorUnavailable(
                        f"{path.parent.name} is being acted on for more than {timeout_s} s"
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield
