"""The databases of the five services: what survives every process, the way to them, and what may befall both."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from random import Random

from tests.simulation.connections import Lock, Pool, Wire
from tests.simulation.database import Database
from tests.simulation.loop import Process, SimLoop
from tests.simulation.services import BEGINNING, SERVICES, empty_database
from tests.simulation.statements import answers


class Stores:
    """The databases on one server: its clock is theirs, and it is away for all of them at once."""

    def __init__(self, loop: SimLoop, rng: Random, counts: Counter[str]) -> None:
        self.loop = loop
        self.rng = rng
        self.counts = counts
        self.is_down = False
        self.cut: set[int] = set()
        """The numbers of the processes that do not reach it."""
        self.ambiguous_rate = 0.0
        self.clock_offset_s = 0.0
        self.set_back_s = 0.0
        """How far its clock was set back in all."""
        self.empty = {name: empty_database(name) for name in SERVICES}
        self.databases = {name: Database(name, empty_database(name), self._now) for name in SERVICES}
        self._locks = {name: Lock(loop.create_future) for name in SERVICES}

    def _now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.loop.now + self.clock_offset_s)

    def pool(self, process: Process) -> Pool:
        """The process's connections to the database of its service; they end with it."""
        pool = Pool(self.databases[process.name], SimWire(self, process), answers, self._locks[process.name])
        process.on_death.append(pool.cut)
        return pool

    def backup(self) -> dict[str, bytes] | None:
        """All databases as they are at this instant, or None in the middle of a transaction."""
        if any(lock.holder for lock in self._locks.values()):
            return None
        return {name: database.backup() for name, database in self.databases.items()}

    def restore(self, backup: dict[str, bytes]) -> None:
        """All databases are as they were then."""
        for name, content in backup.items():
            self.databases[name].restore(content)

    def task_state(self, task_id: str) -> str | None:
        """As the projection says."""
        rows = self.databases["scheduler"].run("SELECT state FROM task_rows WHERE task_id = $1", (task_id,))
        return rows[0]["state"] if rows else None

    def machine_state(self, machine_id: str) -> str | None:
        """As the projection says."""
        rows = self.databases["machines"].run("SELECT state FROM fleet WHERE machine_id = $1", (machine_id,))
        return rows[0]["state"] if rows else None

    def close(self) -> None:
        """Nothing is left of them."""
        for database in self.databases.values():
            database.sqlite.close()  # its functions hold the database and with it the whole world


class SimWire(Wire):
    """A process's way to its database."""

    def __init__(self, stores: Stores, process: Process) -> None:
        self._stores = stores
        self._process = process

    async def there(self) -> None:
        """The request arrives."""
        draw = self._stores.rng.random()
        await asyncio.sleep(0.0 if draw < 0.7 else (draw - 0.7) * 0.02)
        if self._stores.is_down or self._process.number in self._stores.cut:
            raise ConnectionResetError("the database cannot be reached")

    async def back(self, *, is_write: bool) -> None:
        """The reply arrives."""
        stores = self._stores
        if is_write and stores.ambiguous_rate and stores.rng.random() < stores.ambiguous_rate:
            stores.counts["ambiguous_commit"] += 1
            raise ConnectionResetError("the connection was lost before the reply")
        await asyncio.sleep(0)
