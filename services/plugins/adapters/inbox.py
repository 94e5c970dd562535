"""The directory of this host that a sandbox sees read-only as /input: filled for one run, emptied after it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from services.plugins.ports import SandboxRequest

PREFIX = "inbox-"


class Inbox:
    """Made below `parent`, and gone with `remove`."""

    def __init__(self, parent: Path | None) -> None:
        self._place = TemporaryDirectory(prefix=PREFIX, dir=parent)
        self.path = Path(self._place.name)
        self.path.chmod(0o755)  # the sandbox's processes are nobody's when root runs the service

    @asynccontextmanager
    async def filled(self, request: SandboxRequest) -> AsyncIterator[None]:
        """The sample and the inputs are in it under their names in the sandbox, for as long as the block lasts."""
        files = {"sample": request.sample, **{str(index): one.path for index, one in enumerate(request.inputs)}}
        try:
            for name, source in files.items():
                await self._put(source, name)
            yield
        finally:
            for name in files:
                (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """It is gone."""
        self._place.cleanup()

    async def _put(self, source: Path, name: str) -> None:
        """A link where that is possible: nothing is copied, and the sandbox cannot write through it."""
        target = self.path / name
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or another user's file
            await asyncio.to_thread(shutil.copyfile, source, target)
            target.chmod(0o644)
