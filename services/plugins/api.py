"""The catalogue over HTTP."""

from typing import Any

from fastapi import APIRouter

from services.chassis.http import Caller, Problem
from services.plugins.domain.catalogue import Plugin, Rejected
from services.plugins.instances import Instances
from services.plugins.keeper import Instance
from services.plugins.registry import Registry

REMEDY = (
    "Mend what it says, then: malbox plugin replace {name} --reason TEXT, as administrator. A change of the plugin's "
    "files has it started anew as well; a restart of Malbox does not."
)


def router(registry: Registry, instances: Instances) -> APIRouter:
    """GET /plugins, GET /plugins/{name}: for every caller."""
    routes = APIRouter(prefix="/plugins", tags=["plugins"])

    @routes.get("")
    async def list_plugins(_caller: Caller) -> dict[str, Any]:
        """Every plugin in the order of names, quarantined ones with the reason; every folder that is none, and why."""
        catalogue = registry.catalogue
        return {
            "items": [_shown(catalogue.plugins[name], instances) for name in sorted(catalogue.plugins)],
            "rejected": [_shown_rejected(entry) for entry in catalogue.rejected],
        }

    @routes.get("/{name}")
    async def show_plugin(name: str, _caller: Caller) -> dict[str, Any]:
        """One plugin with its limits, configuration and results, why it is quarantined, or why the folder is none."""
        catalogue = registry.catalogue
        rejected = {entry.folder: entry for entry in catalogue.rejected}
        plugin = catalogue.plugins.get(name)
        if plugin is not None:
            return {**_shown(plugin, instances), **_details(plugin)}
        if name in rejected:
            return _shown_rejected(rejected[name])
        known = sorted({*catalogue.plugins, *rejected})
        raise Problem(404, "unknown_plugin", f"There is no plugin {name!r}.", allowed=known)

    return routes


def _shown(plugin: Plugin, instances: Instances) -> dict[str, Any]:
    manifest, given_up = plugin.manifest, instances.given_up(plugin)
    return {
        "name": plugin.name,
        "state": "registered" if given_up is None else "quarantined",
        "version": plugin.version,
        "description": manifest.plugin.description,
        "kind": manifest.plugin.kind,
        "stages": manifest.applies.stages,
        "platforms": manifest.applies.platforms,
        "packages": manifest.applies.packages,
        **({} if given_up is None else _quarantined(given_up)),
    }


def _quarantined(given_up: Instance) -> dict[str, Any]:
    """Why, since when, and what lifts it."""
    return {
        "reason": given_up.reason,
        "since": given_up.since.isoformat(),
        "remedy": REMEDY.format(name=given_up.plugin.name),
    }


def _details(plugin: Plugin) -> dict[str, Any]:
    manifest = plugin.manifest
    return {
        "authors": manifest.plugin.authors,
        "license": manifest.plugin.license,
        "runtime": manifest.runtime.model_dump(mode="json"),
        "order": manifest.order.model_dump(mode="json"),
        "events": manifest.events.model_dump(mode="json"),
        "config_schema": manifest.config_schema,
        "results": {name: spec.model_dump(mode="json") for name, spec in manifest.results.items()},
    }


def _shown_rejected(entry: Rejected) -> dict[str, Any]:
    return {"name": entry.folder, "state": "rejected", "reason": entry.reason}
