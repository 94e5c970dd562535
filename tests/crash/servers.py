"""The servers under the services, done harm to: killed, wiped, restored, and started again as a supervisor would."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from deploy.local import postgres, rabbitmq
from deploy.local.state import DeployError
from tests.crash.ground import Ground

NAME = "malbox-crash"
BALLAST = "ballast"
ASIDE = "data.aside"
SPARE_BYTES = 40 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
SUPERVISION_S = 0.3
COMMAND_TIMEOUT_S = 30


class Servers:
    """RabbitMQ and PostgreSQL of a ground. Every call returns when the server answers again, or is down for good."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._here = ground.bed.here

    async def kill_broker(self) -> None:
        """RabbitMQ died, and runs again with what it had on disk."""
        await asyncio.to_thread(self._ground.kill, rabbitmq.NAME)
        await self.start_broker()

    async def wipe_broker(self) -> None:
        """RabbitMQ died and lost everything: queues, messages, exchanges, users. It runs again from its definitions."""
        await asyncio.to_thread(self._ground.kill, rabbitmq.NAME)
        await asyncio.to_thread(shutil.rmtree, self._ground.state.rabbitmq / "mnesia")
        await self.start_broker()

    async def start_broker(self) -> None:
        """RabbitMQ answers."""
        await asyncio.to_thread(self._here.rabbitmq().start)

    async def kill_database(self) -> None:
        """PostgreSQL died, and runs again with what was committed."""
        await asyncio.to_thread(self._ground.kill, postgres.NAME)
        await self.start_database()

    async def stop_database(self) -> None:
        """PostgreSQL is down, its files at rest."""
        await asyncio.to_thread(self._here.postgres().stop)

    async def start_database(self) -> None:
        """PostgreSQL answers."""
        await asyncio.to_thread(self._here.postgres().start)

    @contextlib.asynccontextmanager
    async def full_database(self) -> AsyncIterator[None]:
        """The disk under PostgreSQL has no byte left for as long as the block lasts; who ends of it is started again.

        The disk is a small one in memory, lent to the data directory for the purpose.
        """
        data = self._here.postgres().data
        async with self._small_disk(data) as disk:
            supervisor = asyncio.create_task(self._supervise_database())
            try:
                await asyncio.to_thread(_fill, disk / BALLAST)
                yield
                await asyncio.to_thread((disk / BALLAST).unlink)
                await self.start_database()
            finally:
                supervisor.cancel()
                await asyncio.gather(supervisor, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _small_disk(self, data: Path) -> AsyncIterator[Path]:
        """The database's files lie on a small disk."""
        await self.stop_database()
        await asyncio.to_thread(_lend_small_disk, data)
        try:
            await self.start_database()
            yield data
        finally:
            await self.stop_database()
            await asyncio.to_thread(_take_back_small_disk, data)
            await self.start_database()

    async def _supervise_database(self) -> None:
        while True:
            with contextlib.suppress(DeployError):
                await self.start_database()
            await asyncio.sleep(SUPERVISION_S)

    async def back_up(self, where: Path) -> None:
        """A copy of the database as it stands; PostgreSQL was down for it."""
        await self.stop_database()
        await asyncio.to_thread(_copy, self._here.postgres().data, where)
        await self.start_database()

    async def restore(self, where: Path) -> None:
        """The database is what the copy says; everything since is forgotten."""
        await self.stop_database()
        data = self._here.postgres().data
        await asyncio.to_thread(shutil.rmtree, data)
        await asyncio.to_thread(_copy, where, data)
        await self.start_database()


def _copy(source: Path, target: Path) -> None:
    """The same files with the same owners and modes."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    for path in (source, *source.rglob("*")):
        found = path.lstat()
        shutil.chown(target / path.relative_to(source), found.st_uid, found.st_gid)


def _lend_small_disk(data: Path) -> None:
    """The same files at the same place, on a disk in memory that has little room for more."""
    aside = data.with_name(ASIDE)
    data.rename(aside)
    data.mkdir(mode=0o700)
    _run("mount", "-t", "tmpfs", "-o", f"size={_size(aside) + SPARE_BYTES}", NAME, str(data))
    _copy(aside, data)


def _take_back_small_disk(data: Path) -> None:
    """The files as they are now, back on the disk where they were."""
    aside = data.with_name(ASIDE)
    shutil.rmtree(aside)
    _copy(data, aside)
    _run("umount", str(data))
    data.rmdir()
    aside.rename(data)


def _size(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))


def _fill(path: Path) -> None:
    """The file has taken every byte that the disk had left."""
    with path.open("wb", buffering=0) as stream:
        for size in (CHUNK_BYTES, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S)
