"""The fleet over HTTP."""

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from services.chassis.http import Caller, Identity, Problem
from services.chassis.run import Runtime
from services.chassis.store import Conflict
from services.chassis.unit import Unit
from services.machines import app
from services.machines.domain.machine import Machine, NotPossible

HISTORY_MAX = 200
_SELECT = "SELECT machine_id, state, since, epoch, spec::text AS spec, acceleration, task_id, why, stream FROM fleet"


def router(runtime: Runtime) -> APIRouter:
    """GET /machines, GET /machines/{id}, POST /machines/{id}/rebuild and /retire."""
    routes = APIRouter(prefix="/machines", tags=["machines"])
    store = runtime.store

    @routes.get("")
    async def list_machines(_caller: Caller) -> dict[str, Any]:
        """Every machine of this host, in the order of names."""
        rows = await store.fetch(_SELECT + " ORDER BY machine_id")
        return {"items": [_shown(row) for row in rows]}

    @routes.get("/{machine_id}")
    async def show_machine(machine_id: str, _caller: Caller) -> dict[str, Any]:
        """One machine with its latest history, newest first."""
        row = await store.fetchrow(_SELECT + " WHERE machine_id = $1", machine_id)
        if row is None:
            known = [other["machine_id"] for other in await store.fetch("SELECT machine_id FROM fleet ORDER BY 1")]
            raise Problem(404, "unknown_machine", f"There is no machine {machine_id!r}.", allowed=known)
        history = await store.fetch(
            "SELECT at, event, state, epoch, details::text AS details FROM machine_history "
            "WHERE stream = $1 ORDER BY version DESC LIMIT $2",
            row["stream"],
            HISTORY_MAX,
        )
        return {
            **_shown(row),
            "history": [{**dict(entry), "details": json.loads(entry["details"])} for entry in history],
        }

    @routes.post("/{machine_id}/rebuild", status_code=202)
    async def rebuild_machine(machine_id: str, caller: Caller) -> dict[str, Any]:
        """A quarantined machine is built again, from nothing. 409 in any other state."""
        return await _decide(runtime, machine_id, caller, app.rebuild)

    @routes.post("/{machine_id}/retire", status_code=202)
    async def retire_machine(machine_id: str, caller: Caller) -> dict[str, Any]:
        """A quarantined machine is gone for good. 409 in any other state."""
        return await _decide(runtime, machine_id, caller, app.retire)

    return routes


async def _decide(
    runtime: Runtime, machine_id: str, caller: Identity, use_case: Callable[[Unit, Machine, str], None]
) -> dict[str, Any]:
    """An operator's word about one machine is recorded, with who said it."""
    if not caller.is_admin:
        raise Problem(403, "forbidden", "Only an administrator may decide about a machine.")
    machine = await runtime.store.load(Machine, Machine.stream(machine_id))
    if machine is None:
        raise Problem(404, "unknown_machine", f"There is no machine {machine_id!r}.")
    unit = runtime.unit()
    try:
        use_case(unit, machine, f"by {caller.subject}")
        await runtime.store.commit(unit)
    except (NotPossible, Conflict) as refusal:
        raise Problem(409, "not_possible", str(refusal)) from refusal
    return {"machine_id": machine_id, "state": machine.state}


def _shown(row: Any) -> dict[str, Any]:
    spec = json.loads(row["spec"])
    return {
        "machine_id": row["machine_id"],
        "state": row["state"],
        "since": row["since"],
        "why": row["why"],
        "epoch": row["epoch"],
        "task_id": row["task_id"],
        "profile": spec["profile"],
        "platform": spec["platform"],
        "host": spec["host"],
        "routes": spec["routes"],
        "acceleration": row["acceleration"],
        "spec": spec,
    }
