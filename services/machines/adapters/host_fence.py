"""The host's own memory of who owned a machine last: one durable number per machine.

Whoever acts for a machine first raises its fence to the epoch that it acts for, and acts while holding the machine's
lock. A stale owner, however late it wakes, meets a higher number and is refused, whatever the services believe.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.chassis.crash_points import Point, reached
from services.machines.errors import HypervisorRefused, HypervisorUnavailable, StaleEpoch

_LOCK_POLL_S = 0.02
_FENCE = "fence"


class HostFence:
    """The fence of one machine, kept in its directory. Safe between threads and between processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def path(self) -> Path:
        """Where the number is."""
        return self._directory / _FENCE

    def highest(self) -> int:
        """The highest epoch that this host acted for; -1 when it never did. Raises HypervisorRefused."""
        try:
            return int((self._directory / _FENCE).read_text(encoding="ascii"))
        except FileNotFoundError:
            return -1
        except ValueError as error:
            raise HypervisorRefused(f"the fence of {self._directory.name} cannot be read: {error}") from error

    def advance(self, epoch: int) -> None:
        """The fence stands at `epoch`, on disk. Raises StaleEpoch when it stood higher."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._directory / "fence.lock", timeout_s=5):
            self.check(epoch)
            if self.highest() < epoch:
                self._write(epoch)

    def check(self, epoch: int) -> None:
        """Nothing acted for a later epoch. Raises StaleEpoch."""
        highest = self.highest()
        if epoch < highest:
            raise StaleEpoch(f"epoch {epoch} is over: {self._directory.name} is at epoch {highest}")

    @contextmanager
    def acting(self, epoch: int, *, timeout_s: float) -> Iterator[None]:
        """Nobody else acts on the machine meanwhile, and `epoch` is still the latest. Raises StaleEpoch.

        Raises HypervisorUnavailable when another action holds the machine for longer than `timeout_s`.
        """
        self.advance(epoch)
        with _locked(self._directory / "lock", timeout_s=timeout_s):
            self.check(epoch)
            yield

    def _write(self, epoch: int) -> None:
        unfinished = self._directory / f".{_FENCE}"
        with unfinished.open("w", encoding="ascii") as stream:
            stream.write(str(epoch))
            stream.flush()
            reached(Point.FENCE_BEFORE)
            os.fsync(stream.fileno())
        unfinished.rename(self._directory / _FENCE)
        sync_directory(self._directory)
        reached(Point.FENCE_AFTER)


def highest_of_all(directory: Path) -> dict[str, int]:
    """The fence of each machine that has one below the directory, by the machine's name."""
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
