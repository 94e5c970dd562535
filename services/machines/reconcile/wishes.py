"""The operator's file of machines, read again whenever it changes.

A file that cannot be read, is broken, or is just being written changes nothing: the last good one stays. One that names
fewer machines takes none away.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from services.chassis.errors import MalboxError
from services.machines.domain.spec import MachineSpec

SETTLE_S = 1.0
"""A file that was written to less than this long ago may be half written."""
FILE_MAX_BYTES = 4 << 20
NAMES_LOGGED_MAX = 20

log = structlog.get_logger()


class Wishes:
    """What machines are to be, by name. `fault` says what is wrong with the file, or is empty."""

    def __init__(self, path: Path, load: Callable[[Path], list[MachineSpec]]) -> None:
        self._path = path
        self._load = load
        self._digest = ""
        self.specs: dict[str, MachineSpec] = {}
        self.as_json: dict[str, Any] = {}
        self.fault = ""

    def refresh(self) -> bool:
        """The file as it is now counts, if it is good; False when it is too young to tell."""
        try:
            if 0 <= time.time() - self._path.stat().st_mtime < SETTLE_S:
                return False
            with self._path.open("rb") as stream:
                digest = hashlib.sha256(stream.read(FILE_MAX_BYTES)).hexdigest()
            if digest != self._digest:
                self._take(digest)
            self.fault = ""
        except (OSError, MalboxError) as error:
            self._refuse(str(error))
        return True

    def _take(self, digest: str) -> None:
        wanted = self._load(self._path)
        self._digest = digest
        gone = sorted(self.specs.keys() - {spec.machine_id for spec in wanted})
        if gone:
            log.warning(
                "machines_left_the_file",
                machines=gone[:NAMES_LOGGED_MAX],
                more=max(0, len(gone) - NAMES_LOGGED_MAX),
                hint="they stay until an operator retires them",
            )
        self.specs = {spec.machine_id: spec for spec in wanted}
        self.as_json = {spec.machine_id: spec.model_dump(mode="json") for spec in wanted}
        log.info("machines_file_was_read", machines=len(wanted))

    def _refuse(self, fault: str) -> None:
        """What is wrong is said once. What was good before stays."""
        if fault != self.fault:
            log.error("machines_file_was_refused", reason=fault, machines_kept=len(self.specs))
        self.fault = fault
