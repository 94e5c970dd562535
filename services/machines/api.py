"""The fleet over HTTP."""

import json
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from services.chassis.http import Caller, Identity, Problem
from services.chassis.operators import Administrator, Decision
from services.chassis.parked import Word
from services.chassis.run import Runtime
from services.chassis.store import Conflict, Store
from services.machines import app
from services.machines.domain.machine import Machine, NotPossible

HISTORY_MAX = 200
DECISION_TRIES = 10
REMEDIES = {
    "registered": "It is built as soon as its image is; or retire it.",
    "ready": "Drain it to take it out of the pool, or quarantine it.",
    "preparing": "Drain it and wait until its lease is over, or quarantine it to end the lease now.",
    "active": "Drain it and wait until its lease is over, or quarantine it to end the lease now.",
    "draining": "Drain it and wait until its lease is over, or quarantine it to end the lease now.",
    "provisioning": "Drain it and wait until it is built, or quarantine it now.",
    "verifying": "Drain it and wait until it is clean, or quarantine it now.",
    "cleaning": "Drain it and wait until it is clean, or quarantine it now.",
    "quarantined": "Return it to have it cleaned and verified, rebuild it, or retire it.",
    "maintenance": "Return it to the pool, or retire it.",
    "retired": "It is gone for good; give a new machine another id in fleet.toml.",
}
_WHOSE = frozenset({"task_id", "lease_id", "operation_id", "owner"})
"""Details of the history that say for whom something happened."""
_SELECT = (
    "SELECT machine_id, state, since, epoch, spec::text AS spec, acceleration, task_id, why, stream, lease_id, term, "
    "owner, hard_deadline_at, verified_at, cause, is_drain_requested, wanted <> spec AS is_to_change FROM fleet"
)


def router(runtime: Runtime, hindrance: Callable[[str], str], unstopped: Callable[[str, int], str]) -> APIRouter:
    """The fleet, its history, and what an administrator may decide about one machine.

    `hindrance` says of a machine, by its name, what it waits for; empty when it waits for nothing. `unstopped` says of
    a machine, by its name and epoch, why it could not be stopped; empty when nothing is known.
    """
    routes = APIRouter(prefix="/machines", tags=["machines"])
    store = runtime.store

    @routes.get("")
    async def list_machines(caller: Caller) -> dict[str, Any]:
        """Every machine of this host, in the order of names.

        Which task has it, on which lease, is shown to administrators and to the task's owner.
        """
        rows = await store.fetch(_SELECT + " ORDER BY machine_id")
        return {"items": [_shown(row, caller, hindrance, unstopped) for row in rows]}

    @routes.get("/{machine_id}")
    async def show_machine(machine_id: str, caller: Caller) -> dict[str, Any]:
        """One machine with its latest history, newest first."""
        row = await _found(store, machine_id)
        history = await _history(store, row["stream"], caller, before=None, limit=HISTORY_MAX)
        return {**_shown(row, caller, hindrance, unstopped), "history": history}

    @routes.get("/{machine_id}/history")
    async def show_history(
        machine_id: str,
        caller: Caller,
        before: Annotated[int | None, Query(ge=1, description="`next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=HISTORY_MAX)] = HISTORY_MAX,
    ) -> dict[str, Any]:
        """Everything that ever happened to a machine, newest first, a page at a time.

        For whom it happened, and on which lease, is shown to administrators.
        """
        row = await _found(store, machine_id)
        entries = await _history(store, row["stream"], caller, before=before, limit=limit)
        return {"items": entries, "next": entries[-1]["version"] if len(entries) == limit else None}

    @routes.post("/{machine_id}/drain", status_code=202)
    async def drain_machine(machine_id: str, decision: Decision, caller: Administrator) -> dict[str, Any]:
        """The machine goes to maintenance: at once when it is ready, else as soon as it is clean and nobody's."""
        return await _decide(runtime, machine_id, decision.by(caller), app.operators.drain)

    @routes.post("/{machine_id}/return", status_code=202)
    async def return_machine(machine_id: str, decision: Decision, caller: Administrator) -> dict[str, Any]:
        """A machine in maintenance or quarantine is cleaned and verified; one that was only to be drained stays."""
        return await _decide(runtime, machine_id, decision.by(caller), app.operators.give_back)

    @routes.post("/{machine_id}/quarantine", status_code=202)
    async def quarantine_machine(machine_id: str, decision: Decision, caller: Administrator) -> dict[str, Any]:
        """The machine stops and stays as it is until an operator decides. A lease ends; its task may be tried again.

        One that is quarantined and would be built again by itself is held; 409 where it waits for an operator already.
        """
        return await _decide(runtime, machine_id, decision.by(caller), app.operators.quarantine)

    @routes.post("/{machine_id}/rebuild", status_code=202)
    async def rebuild_machine(machine_id: str, decision: Decision, caller: Administrator) -> dict[str, Any]:
        """A quarantined machine is built again, from nothing. 409 in any other state."""
        return await _decide(runtime, machine_id, decision.by(caller), app.operators.rebuild)

    @routes.post("/{machine_id}/retire", status_code=202)
    async def retire_machine(machine_id: str, decision: Decision, caller: Administrator) -> dict[str, Any]:
        """A machine that is out of the pool, or was never built, is gone for good. 409 in any other state."""
        return await _decide(runtime, machine_id, decision.by(caller), app.operators.retire)

    return routes


async def _found(store: Store, machine_id: str) -> Any:
    row = await store.fetchrow(_SELECT + " WHERE machine_id = $1", machine_id)
    if row is None:
        known = [other["machine_id"] for other in await store.fetch("SELECT machine_id FROM fleet ORDER BY 1")]
        raise Problem(404, "unknown_machine", f"There is no machine {machine_id!r}.", allowed=known)
    return row


async def _history(
    store: Store, stream: UUID, caller: Identity, *, before: int | None, limit: int
) -> list[dict[str, Any]]:
    rows = await store.fetch(
        "SELECT version, at, event, state, epoch, details::text AS details FROM machine_history "
        "WHERE stream = $1 AND ($2::int IS NULL OR version < $2) ORDER BY version DESC LIMIT $3",
        stream,
        before,
        limit,
    )
    return [{**dict(entry), "details": _details(json.loads(entry["details"]), caller)} for entry in rows]


def _details(details: dict[str, Any], caller: Identity) -> dict[str, Any]:
    return {key: value for key, value in details.items() if caller.is_admin or key not in _WHOSE}


async def _decide(runtime: Runtime, machine_id: str, word: Word, order: app.operators.Order) -> dict[str, Any]:
    """An operator's word about one machine is recorded, with who said it and why."""
    for _ in range(DECISION_TRIES):
        machine = await runtime.store.load(Machine, Machine.stream(machine_id))
        if machine is None:
            raise Problem(404, "unknown_machine", f"There is no machine {machine_id!r}.")
        unit = runtime.unit()
        try:
            order(unit, machine, word.who, word.why)
            await runtime.store.commit(unit)
        except NotPossible as refusal:
            remedy = REMEDIES.get(machine.state, "Look at its history for what it is doing.")
            raise Problem(409, "not_possible", f"{refusal}. {remedy}", state=machine.state) from refusal
        except Conflict:
            continue  # the machine moved meanwhile: the word is about it as it is now
        return {"machine_id": machine_id, "state": machine.state, "is_drain_requested": machine.drain is not None}
    raise Problem(409, "not_possible", f"{machine_id} changes too fast right now.", retry_after_s=1)


def _shown(
    row: Any, caller: Identity, hindrance: Callable[[str], str], unstopped: Callable[[str, int], str]
) -> dict[str, Any]:
    may_know_whose = caller.is_admin or (row["owner"] is not None and caller.may_see(row["owner"]))
    spec = json.loads(row["spec"])
    waits = "" if row["why"] or row["state"] == "retired" else hindrance(row["machine_id"])
    runs = unstopped(row["machine_id"], row["epoch"])
    reasons = (row["why"] or waits, f"stopping it failed: {runs}" if runs else "")
    return {
        "machine_id": row["machine_id"],
        "state": row["state"],
        "since": row["since"],
        "why": "; ".join(filter(None, reasons)),
        "epoch": row["epoch"],
        "task_id": row["task_id"] if may_know_whose else None,
        "lease_id": row["lease_id"] if may_know_whose else None,
        "term": row["term"],
        "hard_deadline_at": row["hard_deadline_at"],
        "verified_at": row["verified_at"],
        "quarantine_cause": row["cause"],
        "is_drain_requested": row["is_drain_requested"],
        "is_to_change": row["is_to_change"],
        "profile": spec["profile"],
        "platform": spec["platform"],
        "host": spec["host"],
        "routes": spec["routes"],
        "acceleration": row["acceleration"],
        "spec": spec,
    }
