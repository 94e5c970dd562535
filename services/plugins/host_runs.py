"""Sandboxed runs on this host: a few at a time over all tasks, each with a spool directory that is gone afterwards."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from services.plugins.domain.catalogue import Plugin
from services.plugins.domain.occasion import Occasion
from services.plugins.events import as_input
from services.plugins.instances import Instances
from services.plugins.ports import InputFile, SandboxReport, SandboxRequest

SPOOL_PREFIX = "run-"
INBOX_PREFIX = "inbox-"  # of the sandboxes' adapter


class HostRuns:
    """Runs host plugins through the sandbox."""

    def __init__(self, instances: Instances, scratch_dir: Path, *, runs_at_once: int) -> None:
        self.instances = instances
        self._scratch_dir = scratch_dir
        self._free = asyncio.Semaphore(runs_at_once)

    def sweep(self) -> None:
        """What a killed predecessor left in the scratch directory is gone."""
        self._scratch_dir.mkdir(parents=True, exist_ok=True)
        for prefix in (SPOOL_PREFIX, INBOX_PREFIX):
            for left in self._scratch_dir.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def run(
        self,
        plugin: Plugin,
        occasion: Occasion,
        *,
        sample: Path,
        sample_name: str,
        config: dict[str, Any] | None = None,
        inputs: tuple[InputFile, ...] = (),
        told: bytes | None = None,
    ) -> AsyncIterator[SandboxReport]:
        """The plugin ran; its results stand in the spool until the block ends. Raises SandboxUnavailable."""
        with TemporaryDirectory(prefix=SPOOL_PREFIX, dir=self._scratch_dir) as place:
            spool = Path(place) / "spool"
            spool.mkdir()
            if told is not None:
                inputs = (*inputs, as_input(told, Path(place) / "events"))
            request = SandboxRequest(
                manifest=plugin.manifest,
                plugin_dir=plugin.folder,
                sample=sample,
                sample_name=sample_name,
                spool_dir=spool,
                config=config or {},
                inputs=inputs,
            )
            async with self._free:
                report = await self.instances.use(plugin, occasion, request)
            yield report
