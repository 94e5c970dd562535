"""What services log is counted, not written; some of it is a defect of their own code."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from services.chassis.errors import MalboxError
from tests.simulation.loop import PROCESS, SimLoop

DEFECTS = frozenset(
    {"handler_failed", "work_outcome_could_not_be_recorded", "report_could_not_be_assembled", "message_parked"}
)
"""What services log when something is wrong with their own code."""


class Logged:
    """What the services of one simulation log."""

    def __init__(self, loop: SimLoop, counts: Counter[str]) -> None:
        self.defects: list[str] = []
        self.listener: Callable[[str], None] | None = None
        self._loop = loop
        self._counts = counts

    @contextmanager
    def kept(self) -> Iterator[None]:
        """It comes here for as long as the block lasts."""
        before = structlog.get_config()
        structlog.configure(processors=[self._count], logger_factory=structlog.ReturnLoggerFactory())
        try:
            yield
        finally:
            structlog.configure(**before)

    def _count(self, _logger: Any, _method: str, event: Any) -> Any:
        words = event["event"]
        if self._loop.is_buried:
            raise structlog.DropEvent
        self._counts[f"log {words}"] += 1
        if self.listener is not None:
            self.listener(f"{self._loop.now:9.3f} {PROCESS.get().name}-{PROCESS.get().number} {event}")
        error = sys.exc_info()[1]
        if words == "message_parked" and event["reason"].endswith("retries)"):
            self._counts["parked_after_retries"] += 1
        elif words in DEFECTS or (words == "work_failed" and not _is_known(error)):
            self.defects.append(f"{self._loop.now:.3f} {words}: {error!r} {event}")
        raise structlog.DropEvent


def _is_known(error: BaseException | None) -> bool:
    """Whether it is one of the errors that say what went wrong, alone or in a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return isinstance(error, MalboxError)
