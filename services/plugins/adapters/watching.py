"""The directories of plugins, read again whenever something in them changed, and watched for that.

What changes in many steps, as a copy or a version control system makes it, is settled for a moment before it is read.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import structlog
from watchfiles import awatch

from services.plugins.adapters.folders import read_catalogue
from services.plugins.adapters.versions import KeptVersions, files_of
from services.plugins.domain.catalogue import Catalogue, Plugin

SETTLED_MS = 200
UNSETTLED_MAX_MS = 1600
RETRY_S = 5.0
log = structlog.get_logger()


class WatchedFolders:
    """Implements PluginSource over directories of this host."""

    def __init__(self, shipped: Path, own: Sequence[Path], versions: KeptVersions) -> None:
        self._shipped = shipped
        self._own = tuple(own)
        self._versions = versions
        self._kept: dict[Path, tuple[tuple[object, ...], Plugin]] = {}
        self._changed = asyncio.Event()

    async def read(self) -> Catalogue:
        """The catalogue as the directories are now."""
        return await asyncio.to_thread(read_catalogue, (self._shipped, *self._own), self._load)

    async def changed(self, timeout_s: float) -> None:
        """Something changed since this returned last, or so long passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    async def watch(self) -> None:
        """Whoever waits in `changed` is told, until this is cancelled."""
        while self._own:
            there = [directory for directory in self._own if directory.is_dir()]
            try:
                await self._watch(there)
            except OSError as error:  # a directory went away, or the kernel has no watches left; both may pass
                log.warning("plugin_directories_are_not_watched", reason=str(error))
            self._changed.set()
            await asyncio.sleep(RETRY_S)

    async def _watch(self, there: Sequence[Path]) -> None:
        """Until the directories are no longer these ones."""
        if not there:
            return
        watched = _identities(there)
        async for changes in awatch(
            *there, debounce=UNSETTLED_MAX_MS, step=SETTLED_MS, rust_timeout=int(RETRY_S * 1000), yield_on_timeout=True,
            ignore_permission_denied=True,
        ):  # fmt: skip
            if changes:
                self._changed.set()
            if _identities(self._own) != watched:
                return

    def _load(self, folder: Path) -> Plugin:
        """A copy is made again only where something about a file is different. Raises ManifestError, OSError."""
        seen = _signature(folder)
        known = self._kept.get(folder)
        if known is not None and known[0] == seen and known[1].folder.is_dir():
            return known[1]
        plugin = self._versions.keep(folder)
        self._kept[folder] = (seen, plugin)
        return plugin


def _identities(directories: Sequence[Path]) -> list[tuple[int, int]]:
    """Which directories those are: one that was removed and made again is another."""
    found = []
    for directory in directories:
        with contextlib.suppress(OSError):
            described = directory.stat()
            found.append((described.st_dev, described.st_ino))
    return found


def _signature(folder: Path) -> tuple[object, ...]:
    """Different when a file of the plugin is. Raises ManifestError, OSError."""
    return tuple(
        (relative, described.st_size, described.st_mtime_ns, described.st_ctime_ns, described.st_ino)
        for path, relative in files_of(folder)
        for described in (path.lstat(),)
    )
