"""The canary of a lease: a mark planted wherever a run could leave traces, and sought in the next incarnation.

It goes into the agent's memory, onto the disk past every cache, and into the firmware's variables where the machine
keeps some. Whoever restores the machine asks for it: an incarnation that is fresh has none.
"""

import contextlib
import os
from pathlib import Path

from guest import limits
from guest.settings import AgentSettings

FILE = "canary"
VARIABLE = "MalboxCanary-5c1d3f52-8f0e-4d5b-9a57-0d1b7a7c2f10"
# UEFI 2.10, 8.2: non-volatile, for boot services, at run time; efivarfs has it before the value, little-endian.
_ATTRIBUTES = (7).to_bytes(4, "little")


class CanaryRefused(Exception):
    """The canary cannot be planted; the message says why."""


class Canary:
    """What is planted in this incarnation, and what is found in it."""

    def __init__(self, settings: AgentSettings) -> None:
        self._file = Path(settings.work_dir) / FILE
        self._variable = Path(settings.firmware_variables_dir) / VARIABLE if settings.firmware_variables_dir else None
        self._kept = b""

    @property
    def places(self) -> tuple[str, ...]:
        """Where it is planted here."""
        return ("memory", "disk", "firmware") if self._variable else ("memory", "disk")

    def plant(self, mark: bytes) -> None:
        """The mark is in each place. Raises CanaryRefused."""
        if len(mark) > limits.CANARY_MAX_BYTES:
            raise CanaryRefused(f"a canary of {len(mark)} bytes; the limit is {limits.CANARY_MAX_BYTES}")
        try:
            with self._file.open("wb") as file:
                file.write(mark)
                file.flush()
                os.fsync(file.fileno())
            if self._variable is not None:
                self._variable.write_bytes(_ATTRIBUTES + mark)
        except OSError as error:
            raise CanaryRefused(f"the canary cannot be planted: {error}") from error
        self._kept = mark

    def keep(self, mark: bytes) -> None:
        """The mark is in this process's memory: it was planted by an earlier one."""
        self._kept = mark

    def found(self) -> dict[str, bytes]:
        """The mark of each place that has one."""
        found = {"memory": self._kept, "disk": _read(self._file, 0)}
        if self._variable is not None:
            found["firmware"] = _read(self._variable, len(_ATTRIBUTES))
        return {place: mark for place, mark in found.items() if mark}


def _read(path: Path, skipped: int) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(limits.CANARY_MAX_BYTES + skipped)[skipped:]
    return b""
