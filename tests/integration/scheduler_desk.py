"""The scheduler on a real PostgreSQL, without a broker: a test speaks to it, reads what it says, turns its clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from uuid import UUID, uuid4

import orjson

from contracts.catalogue import unwrap
from contracts.envelope import Envelope, Message
from contracts.ids import derived, uuid_of
from contracts.intake import TaskSubmitted
from contracts.machines import LeaseExpired, MachineFact, MachineLeased, MachineRegistered, MachineReverted
from contracts.plugins import PluginManifest, PluginRegistered
from contracts.scheduler import LeaseMachine, RunStage
from services.chassis.blobs import BlobStore
from services.chassis.migrations import migrate
from services.chassis.run import Runtime
from services.chassis.store import Duplicate, Fenced, Store
from services.chassis.unit import Cause, Unit
from services.chassis.work import WorkContext, WorkItem
from services.scheduler import timers
from services.scheduler.announcements import announce
from services.scheduler.dispatch import Dispatcher
from services.scheduler.domain.task import Task
from services.scheduler.handlers import HANDLERS
from services.scheduler.main import MIGRATIONS
from services.scheduler.settings import SchedulerSettings
from tests.contracts.examples import ENDPOINT, MACHINE
from tests.unit.scheduler.tasks import submission

RUNNERS = {runner.kind: runner for runner in timers.RUNNERS}
RESULT = "res_" + "7" * 32
HOST_PLUGIN = PluginManifest(name="identity", version="1.0.0", description="x", kind="host", stages=("static",))
GUEST_PLUGIN = PluginManifest(name="syscalls", version="1.0.0", description="x", kind="guest", stages=("guest",))
POST_PLUGIN = PluginManifest(name="behaviour", version="1.0.0", description="x", kind="host", stages=("post",))
ROUNDS_MAX = 50


class Clock:
    """The host's clock, and what a test has turned it ahead."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """The instant that it shows."""
        return datetime.now(UTC) + self._ahead

    def uuid(self) -> UUID:
        """A random one."""
        return uuid4()

    def turn(self, seconds: float) -> None:
        """So many seconds have passed."""
        self._ahead += timedelta(seconds=seconds)


@dataclass
class Desk:
    """What a test does to the scheduler."""

    store: Store
    clock: Clock = field(default_factory=Clock)
    sequence: int = 0
    dispatcher: Dispatcher = field(init=False)

    def __post_init__(self) -> None:
        blobs = BlobStore(Path(gettempdir()))  # nothing is put into it
        self.dispatcher = Dispatcher(Runtime(None, self.store, blobs, self.clock, announce))

    async def furnish(self, *machines: str) -> None:
        """Plugins for every stage are known, and these machines stand ready."""
        for manifest in (HOST_PLUGIN, GUEST_PLUGIN, POST_PLUGIN):
            await self.hear(PluginRegistered(manifest=manifest))
        for machine_id in machines:
            await self.hear(self.registered(machine_id, "ready", epoch=3))

    async def hear(self, fact: Message, message_id: str | None = None) -> None:
        """The fact is handled as the chassis does: once for each id."""
        self.sequence += 1
        cause = Cause(message_id or f"msg_{uuid4().hex}", sequence=self.sequence)
        unit = Unit("scheduler", self.clock.now(), uuid4, announce, cause)
        try:
            await HANDLERS[type(fact)](fact, unit, self.store)
            await self.store.commit(unit)
        except Duplicate:
            return

    async def submit(self, name: str = "one", owner: str = "ana", **request: object) -> str:
        """A task is submitted, and dispatched if it can be; its id."""
        asked = submission(**request)
        fact = asked.model_copy(update={"task_id": derived("tsk", name), "owner": owner})
        await self.hear(TaskSubmitted.model_validate(fact.model_dump()))
        await self.work()
        return str(fact.task_id)

    async def task(self, task_id: str) -> Task:
        """The task, which exists."""
        task = await self.store.load(Task, uuid_of(task_id))
        assert task is not None
        return task

    async def said(self) -> list[Message]:
        """What was said since the last time this was asked."""
        rows = await self.store.fetch("WITH gone AS (DELETE FROM outbox RETURNING *) SELECT * FROM gone ORDER BY id")
        return [unwrap(Envelope.from_json(bytes(row["body"]))) for row in rows]

    async def pass_time(self, seconds: float) -> list[Message]:
        """So much time passes, work is done when it is due, and this is what was said meanwhile."""
        left, said = seconds, await self.said()
        for _ in range(ROUNDS_MAX):
            row = await self.store.fetchrow("SELECT extract(epoch FROM min(due_at) - now())::float8 AS due_s FROM work")
            if row is None or row["due_s"] is None or row["due_s"] > left:
                break
            step = max(0.0, row["due_s"])
            left -= step
            await self._age(step)
            await self.work()
            said += await self.said()
        await self._age(left)
        return said

    async def _age(self, seconds: float) -> None:
        """The clock is turned, and work is due so much sooner: the database's own clock cannot be turned."""
        self.clock.turn(seconds)
        await self.store.fetch("UPDATE work SET due_at = due_at - $1::interval", timedelta(seconds=seconds))

    async def work(self) -> None:
        """Everything that is due is done, and what is due because of it."""
        for _ in range(ROUNDS_MAX):
            if self.dispatcher.is_wanted:
                await self.dispatcher.look()
                continue
            row = await self.store.fetchrow(
                "UPDATE work SET attempts = attempts + 1, claimed_pid = 1 WHERE id = (SELECT id FROM work "
                "WHERE due_at <= now() ORDER BY due_at, id LIMIT 1) "
                "RETURNING id, kind, key, payload::text AS payload, attempts"
            )
            if row is None:
                return
            await self._run(WorkItem(row["id"], row["kind"], row["key"], orjson.loads(row["payload"]), row["attempts"]))
        raise AssertionError("work begets work without end")

    async def _run(self, item: WorkItem) -> None:
        context = WorkContext(item=item, service="scheduler", store=self.store, clock=self.clock, announce=announce)
        try:
            await RUNNERS[item.kind].run(item, context)
        except Fenced:
            return
        if context.has_claim:
            await self.store.fetch("DELETE FROM work WHERE id = $1 AND attempts = $2", item.work_id, item.attempt)

    @staticmethod
    def registered(machine_id: str, state: str, *, epoch: int, **summary: object) -> MachineRegistered:
        """The machine is known, in that state."""
        machine = MACHINE.model_copy(update={"machine_id": machine_id, **summary})
        return MachineRegistered(machine_id=machine_id, epoch=epoch, machine=machine, state=state)

    @staticmethod
    def leased(order: LeaseMachine, *, epoch: int = 4, **changes: Any) -> MachineLeased:
        """The machine is the task's, as ordered."""
        lease = {
            "lease_id": derived("lea", order.machine_id, epoch),
            "machine_id": order.machine_id,
            "epoch": epoch,
            "term": 1,
        }
        fields = {
            "machine_id": order.machine_id,
            "epoch": epoch,
            "task_id": order.task_id,
            "lease": lease,
            "endpoint": ENDPOINT,
            "platform": "linux",
            "hard_deadline_at": datetime.now(UTC),
            "host": order.host,
        }
        return MachineLeased.model_validate({**fields, **changes})

    @staticmethod
    def expired(lease: MachineLeased, cause: str = "guest_lost") -> LeaseExpired:
        """The lease ended without the task's word."""
        return LeaseExpired.model_validate(
            {
                "machine_id": lease.machine_id,
                "epoch": lease.epoch + 1,
                "task_id": lease.task_id,
                "lease_id": lease.lease.lease_id,
                "cause": cause,
                "reason": f"the lease ended: {cause}",
            }
        )

    @staticmethod
    def clean(of: MachineFact, task_id: str | None, *, epoch: int) -> MachineReverted:
        """The machine is verified clean."""
        machine = MACHINE.model_copy(update={"machine_id": of.machine_id})
        return MachineReverted(
            machine_id=of.machine_id, epoch=epoch, task_id=task_id, machine=machine, evidence={"canary": "gone"}
        )


@asynccontextmanager
async def furnished(database_url: str) -> AsyncIterator[Desk]:
    """A scheduler that knows plugins and one machine."""
    store = await Store.open(database_url, "scheduler")
    await migrate(store, MIGRATIONS)
    made = Desk(store)
    await made.furnish("linux-1")
    yield made
    await store.close()


def settings(**own: object) -> SchedulerSettings:
    """Those of a scheduler that speaks to nobody."""
    shared = {"amqp_url": "x", "database_url": "x", "blob_dir": "/", "scratch_dir": "/", "http_port": 0}
    return SchedulerSettings.model_validate({**shared, "gateway_secret": "x" * 16, **own})


def only(kind: type[Any], messages: list[Message]) -> Any:
    """The one message of that kind."""
    [found] = [message for message in messages if isinstance(message, kind)]
    return found


def orders_of(stage: str, messages: list[Message]) -> list[RunStage]:
    """The orders to run that stage."""
    return [message for message in messages if isinstance(message, RunStage) and message.stage.name == stage]
