"""What the registry asks of the outside world: where plugins are found, and where the versions of them are kept."""

from collections.abc import Collection
from typing import Protocol

from services.plugins.domain.catalogue import Catalogue, Plugin


class PluginSource(Protocol):
    """Where plugins are found."""

    async def read(self) -> Catalogue:
        """The catalogue as it is there now; what is broken is rejected in it, and never raised."""

    async def changed(self, timeout_s: float) -> None:
        """Something changed since this returned last, or so long passed."""

    async def watch(self) -> None:
        """Whoever waits in `changed` is told, until this is cancelled."""


class Versions(Protocol):
    """Every version that a plan may still have pinned. Nothing here waits for anything but a local disk."""

    def find(self, name: str, version: str, digest: str) -> Plugin | None:
        """The version of that digest; without one, any of that version."""

    def mark_current(self, digests: Collection[str]) -> None:
        """Those are of the catalogue of this moment."""

    def collect(self, pinned: Collection[str], *, older_than_s: float) -> list[str]:
        """What no plan pins, and left the catalogue at least that long ago, is gone."""
