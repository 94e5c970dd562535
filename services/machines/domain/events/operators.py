"""What an operator decided: each says who (`by`) and why (`reason`)."""

from typing import Any, ClassVar

from services.machines.domain.events.base import Event
from services.machines.domain.record import Record, Word


class DrainRequested(Event):
    """An operator wants the machine, as soon as it is clean and nobody's."""

    TOPIC: ClassVar[str] = "machine:drain-requested"
    by: str
    reason: str

    def keep(self, record: Record) -> None:
        """Remember whose word it is."""
        record.drain = Word(self.by, self.reason)


class DrainCancelled(Event):
    """The operator does not want the machine any more."""

    TOPIC: ClassVar[str] = "machine:drain-cancelled"
    by: str
    reason: str

    def keep(self, record: Record) -> None:
        """It stays in the pool."""
        record.drain = None


class MaintenanceStarted(Event):
    """The machine is the operator's."""

    TOPIC: ClassVar[str] = "machine:maintenance-started"
    by: str
    reason: str

    def keep(self, record: Record) -> None:
        """The request is fulfilled."""
        record.drain = None


class Returned(Event):
    """An operator gave the machine back; it is cleaned and verified before anybody gets it."""

    TOPIC: ClassVar[str] = "machine:returned"
    by: str
    reason: str

    def keep(self, record: Record) -> None:
        """An operator's word is a new beginning."""
        record.drain = None
        record.leave_quarantine()
        record.trust_anew()


class Retired(Event):
    """Gone."""

    TOPIC: ClassVar[str] = "machine:retired"
    class_version: ClassVar[int] = 2
    reason: str
    by: str

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 1 named the operator in the reason."""
        state["by"] = ""
