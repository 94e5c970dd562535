"""A machine while a task has it, and what may happen to it then."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from contracts.machines import GuestEndpoint, LeaseRef
from contracts.submission import Route
from deploy.local import pki
from services.plugins.adapters.guest_agent import GrpcGuestConnector, guest_session
from tests.bench.wire import Refused, form
from tests.prove.facts import Fact
from tests.prove.ground import LEASE_TIMEOUT_S, Ground

CALL_TIMEOUT_S = 20.0
END_TIMEOUT_S = 90.0
SLEEPER = b"#!/bin/sh\nexec sleep 300\n"
_OVER = frozenset({"task.completed", "task.failed", "task.timed-out", "task.cancelled", "task.unserviceable"})


@dataclass(frozen=True)
class Leased:
    """One lease: whose it is, and the fact that said so."""

    task_id: str
    fact: Fact

    @property
    def endpoint(self) -> GuestEndpoint:
        """Where its agent is."""
        return GuestEndpoint.model_validate(self.fact.data["endpoint"])

    @property
    def lease(self) -> LeaseRef:
        """What calls into the guest carry."""
        return LeaseRef.model_validate(self.fact.data["lease"])


async def submitted(ground: Ground, sample: bytes, *, timeout_s: int, route: Route = "none") -> str:
    """The task of a script that is watched for that long, on that route."""
    fields = (("plugin", "syscalls"), ("timeout", str(timeout_s)), ("route", route))
    body = form(sample, "sample.sh", fields)
    async with ground.origin.connected() as wire:
        submission = await wire.submit(body)
    task_id: str = submission["tasks"][0]["task_id"]
    return task_id


async def over(ground: Ground, task_id: str, *, since: int, timeout_s: float = END_TIMEOUT_S) -> Fact:
    """The task's terminal fact. Raises NotHeardError."""
    return await ground.ear.until(
        f"task {task_id} is over",
        lambda fact: fact.name in _OVER and fact.data["task_id"] == task_id,
        since=since,
        timeout_s=timeout_s,
    )


async def analysed(ground: Ground, sample: bytes, *, timeout_s: int = 30) -> Leased:
    """A script ran to its end on the machine, which is clean again. Raises AssertionError when the task failed."""
    mark = ground.ear.mark()
    task_id = await submitted(ground, sample, timeout_s=timeout_s)
    fact = await leased_to(ground, task_id, since=mark)
    end = await over(ground, task_id, since=mark)
    assert end.name == "task.completed", end.data
    await ground.reverted(since=mark, timeout_s=END_TIMEOUT_S, above=int(fact.data["epoch"]))
    return Leased(task_id, fact)


async def leased_to(ground: Ground, task_id: str, *, since: int) -> Fact:
    """The machine is the task's. Raises NotHeardError."""
    return await ground.ear.until(
        f"{ground.machine_id} is leased to {task_id}",
        lambda fact: (
            fact.is_of(ground.machine_id) and fact.name == "machine.leased" and fact.data["task_id"] == task_id
        ),
        since=since,
        timeout_s=LEASE_TIMEOUT_S,
    )


@contextlib.asynccontextmanager
async def running(
    ground: Ground, sample: bytes = SLEEPER, *, timeout_s: int = 300, route: Route = "none"
) -> AsyncIterator[Leased]:
    """A sample runs on the machine for the block; then its task is over, cancelled if need be."""
    mark = ground.ear.mark()
    task_id = await submitted(ground, sample, timeout_s=timeout_s, route=route)
    fact = await leased_to(ground, task_id, since=mark)
    await ground.ear.until(
        "the sample runs",
        lambda one: one.name == "sample.started" and one.data["task_id"] == task_id,
        since=mark,
        timeout_s=LEASE_TIMEOUT_S,
    )
    try:
        yield Leased(task_id, fact)
    finally:
        await cancelled(ground, task_id, since=mark)


async def cancelled(ground: Ground, task_id: str, *, since: int, timeout_s: float = END_TIMEOUT_S) -> Fact:
    """The task is over, by our word unless it was before; its terminal fact. Raises NotHeardError."""
    async with ground.origin.connected() as wire:
        with contextlib.suppress(Refused):  # it was over by itself
            await wire.exchange("POST", f"/tasks/{task_id}/cancel", b"{}", "application/json")
    return await over(ground, task_id, since=since, timeout_s=timeout_s)


def suspended(ground: Ground) -> None:
    """Its processors stand still in the middle of a lease."""
    with ground.domain() as domain:
        domain.suspend()


async def agent_ended(ground: Ground) -> None:
    """The agent serves no more; the guest runs on."""
    fact = next(one for one in reversed(ground.ear.facts) if one.name == "machine.leased")
    leased = Leased(fact.data["task_id"], fact)
    state = ground.here.state
    connector = GrpcGuestConnector(
        client_cert_file=pki.cert_file(state, "plugins"), client_key_file=pki.key_file(state, "plugins")
    )
    async with (
        asyncio.timeout(2 * CALL_TIMEOUT_S),
        guest_session(connector, leased.endpoint, leased.lease, timeout_s=CALL_TIMEOUT_S) as session,
    ):
        await session.shutdown()
