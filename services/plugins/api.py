"""The catalogue over HTTP."""

from typing import Any

from fastapi import APIRouter

from services.chassis.http import Caller, Problem
from services.plugins.domain.catalogue import Plugin, Rejected
from services.plugins.registry import Registry


def router(registry: Registry) -> APIRouter:
    """GET /plugins, GET /plugins/{name}: for every caller."""
    routes = APIRouter(prefix="/plugins", tags=["plugins"])

    @routes.get("")
    async def list_plugins(_caller: Caller) -> dict[str, Any]:
        """Every plugin in the order of names, and every folder that is none with the reason."""
        catalogue = registry.catalogue
        return {
            "items": [_shown(catalogue.plugins[name]) for name in sorted(catalogue.plugins)],
            "rejected": [_shown_rejected(entry) for entry in catalogue.rejected],
        }

    @routes.get("/{name}")
    async def show_plugin(name: str, _caller: Caller) -> dict[str, Any]:
        """One plugin with its limits, configuration and results, or why the folder is none."""
        catalogue = registry.catalogue
        rejected = {entry.folder: entry for entry in catalogue.rejected}
        plugin = catalogue.plugins.get(name)
        if plugin is not None:
            return {**_shown(plugin), **_details(plugin)}
        if name in rejected:
            return _shown_rejected(rejected[name])
        known = sorted({*catalogue.plugins, *rejected})
        raise Problem(404, "unknown_plugin", f"There is no plugin {name!r}.", allowed=known)

    return routes


def _shown(plugin: Plugin) -> dict[str, Any]:
    manifest = plugin.manifest
    return {
        "name": plugin.name,
        "state": "registered",
        "version": plugin.version,
        "description": manifest.plugin.description,
        "kind": manifest.plugin.kind,
        "stages": manifest.applies.stages,
        "platforms": manifest.applies.platforms,
        "packages": manifest.applies.packages,
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
