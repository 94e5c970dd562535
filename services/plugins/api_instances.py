"""What every instance of a host plugin does, over HTTP, and the one thing that an operator may decide about it."""

from typing import Any

import structlog
from fastapi import APIRouter

from services.chassis.http import Caller, Problem
from services.chassis.operators import Administrator, Decision
from services.plugins.instances import Instances
from services.plugins.keeper import Instance

log = structlog.get_logger()


def instances_router(instances: Instances) -> APIRouter:
    """GET /plugins/instances, POST /plugins/instances/{plugin}/replace."""
    routes = APIRouter(prefix="/plugins/instances", tags=["plugins"])

    @routes.get("")
    async def list_instances(_caller: Caller) -> dict[str, Any]:
        """Every instance in this process: starting, ready, busy with what, backing off or quarantined and why."""
        return {"items": [_shown(instance) for instance in instances.seen()]}

    @routes.post("/{plugin}/replace", status_code=202)
    async def replace_instances(plugin: str, caller: Administrator, decision: Decision) -> dict[str, Any]:
        """Fresh instances serve the runs that begin from now on, also of a plugin that was quarantined."""
        if not await instances.replace(plugin):
            known = sorted({one.plugin.name for one in instances.seen()})
            raise Problem(404, "unknown_instance", f"No instance of a plugin {plugin!r} is kept.", allowed=known)
        word = decision.by(caller)
        log.info("plugin_instances_were_replaced", plugin=plugin, by=word.who, reason=word.why)
        return {"items": [_shown(one) for one in instances.seen() if one.plugin.name == plugin]}

    return routes


def _shown(instance: Instance) -> dict[str, Any]:
    occasion = instance.occasion
    return {
        "id": instance.number,
        "plugin": instance.plugin.name,
        "version": instance.plugin.version,
        "lifecycle": instance.plugin.manifest.runtime.lifecycle,
        "scope": instance.scope,
        "state": instance.state,
        "since": instance.since.isoformat(),
        "reason": instance.reason,
        "runs": instance.runs,
        "task_id": None if occasion is None else occasion.task_id,
        "attempt": None if occasion is None else occasion.attempt,
        "stage": None if occasion is None else occasion.stage,
    }
