"""Which plugins are given up, remembered beyond the end of the service: a restart mends none of them.

One is known by the digest of its files, so that a plugin whose files changed is another. What has no digest is part of
the service itself, which a restart may have replaced; it is remembered by nobody.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

import structlog

from contracts.limits import REASON_MAX_CHARS
from services.chassis.patience import until_stored
from services.chassis.store import Store, StoreUnavailable
from services.plugins.domain.catalogue import Plugin

log = structlog.get_logger()


@dataclass(frozen=True)
class GivenUp:
    """Of which plugin, after how many failures in a row, why the last time, and since when."""

    name: str
    reason: str
    times: int
    since: datetime


class Quarantine:
    """Every plugin that is given up. Without a store it is known for as long as this object lives."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._known: dict[str, GivenUp] = {}
        self._saving = asyncio.Lock()

    async def load(self) -> None:
        """What was given up before this process began is known. Raises StoreUnavailable, after a long while."""
        if (store := self._store) is not None:
            found = await until_stored(
                lambda: store.fetch("SELECT digest, name, reason, times, since FROM quarantined")
            )
            self._known = {
                row["digest"]: GivenUp(row["name"], row["reason"], row["times"], row["since"]) for row in found
            }

    def of(self, plugin: Plugin) -> GivenUp | None:
        """Why and since when exactly this plugin is given up, if it is."""
        return self._known.get(plugin.digest)

    def put(self, plugin: Plugin, given_up: GivenUp | None) -> None:
        """The plugin is given up, or no more; `save` makes it durable."""
        if given_up is None:
            self._known.pop(plugin.digest, None)
        elif plugin.digest:
            self._known[plugin.digest] = given_up

    async def save(self, digest: str) -> None:
        """What is known of that plugin now is durable, unless the store is away for too long: that is logged."""
        if not digest or (store := self._store) is None:
            return

        async def write() -> None:
            async with self._saving:
                await _write(store, digest, self._known.get(digest))

        try:
            await until_stored(write)
        except StoreUnavailable as error:
            log.error("quarantine_was_not_stored", digest=digest, reason=str(error))  # noqa: TRY400 - no defect

    async def lift(self, name: str) -> bool:
        """No version of that plugin is given up any more, durably; whether one was. Raises StoreUnavailable."""
        async with self._saving:
            if self._store is not None:
                await self._store.fetch("DELETE FROM quarantined WHERE name = $1", name)
            lifted = [digest for digest, one in self._known.items() if one.name == name]
            for digest in lifted:
                del self._known[digest]
        return bool(lifted)

    async def forget(self, digest: str) -> None:
        """There is no such plugin any more."""
        if self._known.pop(digest, None) is not None:
            await self.save(digest)


async def _write(store: Store, digest: str, one: GivenUp | None) -> None:
    if one is None:
        await store.fetch("DELETE FROM quarantined WHERE digest = $1", digest)
    else:
        await store.fetch(
            "INSERT INTO quarantined (digest, name, reason, times, since) VALUES ($1, $2, $3, $4, $5) "
            "ON CONFLICT (digest) DO NOTHING",
            *(digest, one.name, one.reason.replace("\0", "")[:REASON_MAX_CHARS], one.times, one.since),
        )
