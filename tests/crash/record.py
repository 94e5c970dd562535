"""What is on record after processes died: the stores as their owners read them, and the audit stream.

Judged from outside: by the superuser's look at the database and the administrator's look at the broker.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from eventsourcing.persistence import StoredEvent

from contracts.envelope import Command, Message
from contracts.ids import derived, uuid_of
from contracts.scheduler import TaskEnded, TaskUnserviceable
from deploy.local.installation import Installation
from deploy.local.postgres import DATABASE
from deploy.local.secrets import BROKER_ADMIN, DATABASE_SUPERUSER
from deploy.local.state import SERVICES
from services.chassis.blobs import BlobStore
from services.chassis.store import make_mapper
from services.machines.announcements import announce as words_of_machine
from services.machines.domain.machine import Machine
from services.scheduler.adapters.audit import AuditStream
from services.scheduler.announcements import announce as words_of_task
from services.scheduler.domain.task import Task
from tests.crash.client import Accepted

FACTS_MAX = 1_000_000
LISTENED_MAX = 4
TIMEOUT_S = 10.0
OVERDUE_S = 5.0
_ENDS: tuple[type[Message], ...] = (*TaskEnded.__subclasses__(), TaskUnserviceable)
ENDS = frozenset(kind.type_name() for kind in _ENDS)
AT_REST = ("ready", "quarantined", "maintenance", "retired")
OVER = ("completed", "failed", "timed_out", "cancelled", "unserviceable")


@dataclass
class Heard:
    """What the audit stream holds: which message ids, and which of them end which task."""

    ids: set[str] = field(default_factory=set)
    ends: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    offset: int | None = None

    def note(self, entry: dict[str, Any]) -> None:
        """One entry of the stream."""
        event = entry["event"]
        self.offset = int(entry["offset"])
        self.ids.add(event["id"])
        if event["type"] in ENDS:
            self.ends[event["data"]["task_id"]].add(event["id"])


@dataclass
class Ledger:
    """Event streams of one service, folded as far as they were read."""

    schema: str
    words: Callable[[Any, Any], Iterable[Message]]
    position: int = 0
    aggregates: dict[UUID, Any] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)
    ends: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    leases: dict[str, str] = field(default_factory=dict)

    def enter(self, event: Any) -> Iterator[str]:
        """The event happens; what of it cannot be is returned."""
        stream = event.originator_id
        before = self.aggregates.get(stream)
        after = event.mutate(before)
        self.aggregates[stream] = after
        if before is not None and isinstance(after, Machine):
            epoch = before.epoch
            if after.epoch < epoch:
                yield f"{after.machine_id}: its epoch fell from {epoch} to {after.epoch}"
        if isinstance(event, Machine.Leased) and self.leases.setdefault(event.lease_id, event.task_id) != event.task_id:
            yield f"{event.lease_id} belongs to {self.leases[event.lease_id]} and {event.task_id}"
        if isinstance(after, Task) and after.is_over:
            self.ends[stream] += 1
        for index, message in enumerate(self.words(event, after)):
            if not isinstance(message, Command):
                self.owed.add(derived("msg", str(stream), event.originator_version, index))


class Record:
    """Reads what is on record; remembers how far it has read."""

    def __init__(self, here: Installation) -> None:
        self._database_url = here.postgres().url(DATABASE_SUPERUSER, DATABASE)
        self._broker_url = here.rabbitmq().url(BROKER_ADMIN)
        self._blobs: Path = here.state.blobs
        self._mapper = make_mapper()
        self._tasks = Ledger("scheduler", words_of_task)
        self._machines = Ledger("machines", words_of_machine)
        self._heard = Heard()
        self._told: set[tuple[str, int]] = set()
        self.is_audit_whole = True

    async def begin(self) -> int:
        """What is on record so far is known; how many submissions there were."""
        connection = await asyncpg.connect(self._database_url, timeout=TIMEOUT_S)
        try:
            for ledger in (self._tasks, self._machines):
                await self._read(connection, ledger)
                ledger.owed.clear()
            await self._listen()
            await self._parked(connection)
            return int(await connection.fetchval("SELECT count(*) FROM intake.submissions"))
        finally:
            await connection.close(timeout=TIMEOUT_S)

    def forget_audit(self) -> None:
        """The audit stream was lost with the broker's data: what it holds proves no more than itself."""
        self._heard = Heard()
        self.is_audit_whole = False

    async def start_over(self) -> None:
        """What was read is forgotten: the database was put back, and tells another story from there on."""
        self._tasks, self._machines = Ledger("scheduler", words_of_task), Ledger("machines", words_of_machine)
        self.is_audit_whole = False
        await self.begin()

    def epochs(self) -> dict[str, int]:
        """The epoch of every machine, as far as its events were read."""
        return {machine.machine_id: machine.epoch for machine in self._machines.aggregates.values()}

    async def is_granted(self, task_id: str) -> bool:
        """Whether the task has had a machine: its events say so at once, and for ever."""
        connection = await asyncpg.connect(self._database_url, timeout=TIMEOUT_S)
        try:
            sql = "SELECT count(*) FROM scheduler.events WHERE stream = $1 AND topic = $2"
            return bool(await connection.fetchval(sql, uuid_of(task_id), Task.MachineGranted.TOPIC))
        finally:
            await connection.close(timeout=TIMEOUT_S)

    async def unrest(self, tasks: Sequence[str]) -> list[str]:
        """What is not over yet, in words; nothing when everything is at rest."""
        try:
            connection = await asyncpg.connect(self._database_url, timeout=TIMEOUT_S)
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            return [f"the database cannot be asked: {error}"]
        try:
            return await self._unrest(connection, tasks)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            return [f"the database could not answer: {error}"]
        finally:
            await connection.close(timeout=TIMEOUT_S)

    async def not_over(self, tasks: Sequence[str]) -> int:
        """How many of the tasks are not over; all of them while the database does not answer."""
        try:
            connection = await asyncpg.connect(self._database_url, timeout=TIMEOUT_S)
            try:
                sql = "SELECT count(*) FROM scheduler.task_rows WHERE task_id = ANY($1) AND state = ANY($2)"
                return len(tasks) - int(await connection.fetchval(sql, tasks, OVER))
            finally:
                await connection.close(timeout=TIMEOUT_S)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return len(tasks)

    async def faults(self, accepted: Sequence[Accepted], submissions: int) -> list[str]:
        """Whatever contradicts the promises, in words; nothing when all of them were kept."""
        connection = await asyncpg.connect(self._database_url, timeout=TIMEOUT_S)
        try:
            found = [
                *await self._read(connection, self._tasks),
                *await self._read(connection, self._machines),
                *await self._faults_of_intake(connection, accepted, submissions),
                *await self._faults_of_projections(connection),
                *await self._parked(connection),
            ]
        finally:
            await connection.close(timeout=TIMEOUT_S)
        for _ in range(LISTENED_MAX):  # the stream's end is a silence, which a slow broker has too
            await self._listen()
            if not self.is_audit_whole or self._tasks.owed | self._machines.owed <= self._heard.ids:
                break
        return [*found, *self._faults_of_tasks(accepted), *self._faults_of_machines()]

    async def _unrest(self, connection: "asyncpg.Connection[asyncpg.Record]", tasks: Sequence[str]) -> list[str]:
        found = [
            f"{row['machine_id']} is {row['state']} at epoch {row['epoch']}: {row['why']}"
            for row in await connection.fetch(
                "SELECT machine_id, state, epoch, why FROM machines.fleet WHERE state <> ALL($1::text[])", AT_REST
            )
        ]
        known = {
            row["task_id"]: row["state"]
            for row in await connection.fetch(
                "SELECT task_id, state FROM scheduler.task_rows WHERE task_id = ANY($1::text[])", tasks
            )
        }
        found += [
            f"{task} is {known.get(task, 'unknown to the scheduler')}" for task in tasks if known.get(task) not in OVER
        ]
        for service in SERVICES:
            unsaid = await connection.fetch(f"SELECT routing_key, written_at FROM {service}.outbox ORDER BY id")  # noqa: S608 - names from our own code
            found += [f"{service} has not said {row['routing_key']} since {row['written_at']:%T}" for row in unsaid]
            found += [
                f"{service} is late with {row['kind']} {row['key']} (attempt {row['attempts']}): {row['last_error']}"
                for row in await connection.fetch(
                    f"SELECT kind, key, attempts, last_error FROM {service}.work "  # noqa: S608 - names from our own code
                    f"WHERE due_at < now() - make_interval(secs => {OVERDUE_S}) LIMIT 3"
                )
            ]
        return found

    async def _read(self, connection: "asyncpg.Connection[asyncpg.Record]", ledger: Ledger) -> list[str]:
        rows = await connection.fetch(
            f"SELECT position, stream, version, topic, state FROM {ledger.schema}.events WHERE position > $1 "  # noqa: S608 - names from our own code
            "ORDER BY stream, version",
            ledger.position,
        )
        found: list[str] = []
        for row in rows:
            event = self._mapper.to_domain_event(StoredEvent(row["stream"], row["version"], row["topic"], row["state"]))
            found += ledger.enter(event)
        ledger.position = max((row["position"] for row in rows), default=ledger.position)
        return found

    async def _faults_of_intake(
        self, connection: "asyncpg.Connection[asyncpg.Record]", accepted: Sequence[Accepted], submissions: int
    ) -> list[str]:
        count = await connection.fetchval("SELECT count(*) FROM intake.submissions")
        found = [] if count == submissions else [f"{submissions} submissions were made and {count} are on record"]
        for one in accepted:
            sha256 = hashlib.sha256(one.content).hexdigest()
            path = self._blobs / BlobStore.key(sha256)
            if not path.is_file() or path.read_bytes() != one.content:
                found.append(f"the sample of {one.key} is not in the object store")
        return found

    async def _faults_of_projections(self, connection: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
        """What is shown is what the events say."""
        found = []
        for row in await connection.fetch("SELECT stream, machine_id, state, epoch FROM machines.fleet"):
            machine = self._machines.aggregates[row["stream"]]
            if (row["state"], row["epoch"]) != (machine.state, machine.epoch):
                found.append(f"{row['machine_id']} is shown as {row['state']} and is {machine.state}")
        for row in await connection.fetch("SELECT stream, task_id, state FROM scheduler.task_rows"):
            task = self._tasks.aggregates[row["stream"]]
            if row["state"] != task.state:
                found.append(f"{row['task_id']} is shown as {row['state']} and is {task.state}")
        return found

    def _faults_of_tasks(self, accepted: Sequence[Accepted]) -> list[str]:
        found = []
        for one in accepted:
            stream = uuid_of(one.task_id)
            task: Task | None = self._tasks.aggregates.get(stream)
            if task is None or not task.is_over:
                found.append(f"{one.task_id} is {task.state if task else 'lost'}")
            elif self._tasks.ends[stream] != 1:
                found.append(f"{one.task_id} goes on after its end")
            told = self._heard.ends[one.task_id]
            if len(told) > 1 or (self.is_audit_whole and not told):
                found.append(f"{one.task_id} has {len(told)} terminal facts in the audit stream")
        return found

    def _faults_of_machines(self) -> list[str]:
        found = [
            f"{machine.machine_id} is {machine.state} and still leased to {machine.task_id}"
            for machine in self._machines.aggregates.values()
            if machine.lease_id is not None
        ]
        if self.is_audit_whole:
            lost = (self._tasks.owed | self._machines.owed) - self._heard.ids
            found += [f"{len(lost)} facts were recorded and never said, {min(lost)} among them"] if lost else []
        self._tasks.owed.clear()
        self._machines.owed.clear()
        return found

    async def _listen(self) -> None:
        start = "first" if self._heard.offset is None else str(self._heard.offset + 1)
        async for entry in AuditStream(self._broker_url).read(start, FACTS_MAX):
            self._heard.note(entry)

    async def _parked(self, connection: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
        """No innocent message was parked. One that was is told of once."""
        found = []
        for service in SERVICES:
            for row in await connection.fetch(f"SELECT id, queue, subject, reason, times FROM {service}.parked"):  # noqa: S608 - names from our own code
                if (row["id"], row["times"]) not in self._told:
                    self._told.add((row["id"], row["times"]))
                    found.append(f"{row['queue']} parked a message about {row['subject']}: {row['reason']}")
        return found

    def outcome(self, task_id: str) -> str:
        """The task's last state, as its events say."""
        task: Task | None = self._tasks.aggregates.get(uuid_of(task_id))
        return task.state if task else "lost"

    def quarantined(self) -> dict[str, str]:
        """Why each machine that is out of the pool is, as its events say."""
        return {
            machine.machine_id: machine.quarantine_reason
            for machine in self._machines.aggregates.values()
            if machine.state == "quarantined"
        }
