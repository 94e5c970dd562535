"""What every instance of a host plugin does, over HTTP, and the one thing that an operator may decide about it."""

from typing import Any

import structlog
from fastapi import APIRouter

from services.chassis.http import Caller, Identity, Problem
from services.chassis.operators import Administrator, Decision
from services.plugins.instances import Instances
from services.plugins.keeper import Instance

log = structlog.get_logger()


def instances_router(instances: Instances) -> APIRouter:
    """GET /plugins/instances, POST /plugins/instances/{plugin}/replace."""
    routes = APIRouter(prefix="/plugins/instances", tags=["plugins"])

    @routes.get("")
    async def list_instances(caller: Caller) -> dict[str, Any]:
        """Every instance in this process: starting, ready, busy with what, backing off or quarantined and why.

        Whose task or scope it serves is shown to administrators and to its owner; of others' only the kind of scope.
        """
        return {"items": [_shown(instance, caller) for instance in instances.seen()]}

    @routes.post("/{plugin}/replace", status_code=202)
    async def replace_instances(plugin: str, caller: Administrator, decision: Decision) -> dict[str, Any]:
        """Fresh instances serve the runs that begin from now on, also of a plugin that was quarantined."""
        if not await instances.replace(plugin):
            known = sorted({one.plugin.name for one in instances.seen()})
            raise Problem(404, "unknown_instance", f"No instance of a plugin {plugin!r} is kept.", allowed=known)
        word = decision.by(caller)
        log.info("plugin_instances_were_replaced", plugin=plugin, by=word.who, reason=word.why)
        return {"items": [_shown(one, caller) for one in instances.seen() if one.plugin.name == plugin]}

    return routes


def _may_know_whom(caller: Identity, instance: Instance) -> bool:
    """Whether the caller may see which task or scope is served. Whose an idle scope is, only an owner's value says."""
    owner = None if instance.occasion is None else instance.occasion.owner
    is_own_scope = instance.scope == f"owner {caller.subject}"
    return caller.is_admin or is_own_scope or (owner is not None and caller.may_see(owner))


def _shown(instance: Instance, caller: Identity) -> dict[str, Any]:
    occasion, scope = instance.occasion, instance.scope
    if not _may_know_whom(caller, instance):
        occasion, scope = None, None if scope is None else scope.partition(" ")[0]
    return {
        "id": instance.number,
        "plugin": instance.plugin.name,
        "version": instance.plugin.version,
        "lifecycle": instance.plugin.manifest.runtime.lifecycle,
        "scope": scope,
        "state": instance.state,
        "since": instance.since.isoformat(),
        "reason": instance.reason,
        "runs": instance.runs,
        "task_id": None if occasion is None else occasion.task_id,
        "attempt": None if occasion is None else occasion.attempt,
        "stage": None if occasion is None else occasion.stage,
    }
