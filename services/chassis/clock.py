"""Time and identity, handed in so that what decides needs neither."""

from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid4


class Clock(Protocol):
    """Says what time it is (UTC) and makes fresh identifiers."""

    def now(self) -> datetime:
        """This instant, in UTC."""

    def uuid(self) -> UUID:
        """An identifier never used before."""


class SystemClock:
    """The host's clock and its random generator."""

    def now(self) -> datetime:
        """This instant, in UTC."""
        return datetime.now(UTC)

    def uuid(self) -> UUID:
        """A random UUID (version 4)."""
        return uuid4()
