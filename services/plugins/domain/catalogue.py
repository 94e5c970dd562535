"""The plugins there are, and the folders that are none, with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import cast

from contracts.ids import StageName
from contracts.plugins import PluginManifest
from malbox.sdk.manifest import Manifest


@dataclass(frozen=True)
class Plugin:
    """A plugin that may be planned: its manifest, where its code is, and where that was copied from.

    `digest` is of its files; empty for what is no copy.
    """

    manifest: Manifest
    folder: Path
    digest: str = ""
    source: Path | None = None

    @property
    def home(self) -> Path:
        """The folder that its author knows."""
        return self.source or self.folder

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.manifest.plugin.name

    @property
    def version(self) -> str:
        """The plugin's version."""
        return self.manifest.plugin.version

    def public(self) -> PluginManifest:
        """What the other services need to know of it."""
        manifest = self.manifest
        return PluginManifest(
            name=self.name,
            version=self.version,
            digest=self.digest,
            description=manifest.plugin.description,
            kind=manifest.plugin.kind,
            context=manifest.runtime.context,
            stages=cast("tuple[StageName, ...]", manifest.applies.stages),
            platforms=manifest.applies.platforms,
            packages=manifest.applies.packages,
            mime=manifest.applies.mime,
            after=manifest.order.after,
            before=manifest.order.before,
            requires=manifest.order.requires,
            config_schema=manifest.config_schema,
        )


@dataclass(frozen=True)
class Rejected:
    """A folder that is not a plugin, and why."""

    folder: str
    reason: str


@dataclass(frozen=True)
class Catalogue:
    """Plugins by name, and what was rejected."""

    plugins: dict[str, Plugin]
    rejected: tuple[Rejected, ...] = ()

    def find(self, name: str, version: str, digest: str = "") -> Plugin | None:
        """The plugin in exactly that version, and of those files where a digest says which."""
        plugin = self.plugins.get(name)
        if plugin is None or plugin.version != version:
            return None
        return plugin if digest in ("", plugin.digest) else None


def assembled(found: Sequence[Plugin], rejected: Sequence[Rejected]) -> Catalogue:
    """The catalogue of what was found, in that order: of two that cannot both be in it, the first is."""
    plugins: dict[str, Plugin] = {}
    refused = list(rejected)
    for plugin in found:
        fault = _fault_beside(plugin, plugins)
        if fault is None:
            plugins[plugin.name] = plugin
        else:
            refused.append(Rejected(plugin.home.name, fault))
    while missing := {name: need for name, plugin in plugins.items() if (need := _need(plugin, plugins)) is not None}:
        for name, need in missing.items():
            home = plugins.pop(name).home
            refused.append(Rejected(home.name, f"{home}/plugin.toml: order.requires: there is no plugin {need}"))
    return Catalogue(plugins, tuple(sorted(refused, key=lambda entry: (entry.folder, entry.reason))))


def _need(plugin: Plugin, plugins: Mapping[str, Plugin]) -> str | None:
    return next((need for need in plugin.manifest.order.requires if need not in plugins), None)


def _fault_beside(plugin: Plugin, plugins: Mapping[str, Plugin]) -> str | None:
    """Why the plugin cannot be in the catalogue with those: its name is taken, or no order would suit them all."""
    if plugin.name in plugins:
        return f"{plugin.home}: the name {plugin.name} is taken by {plugins[plugin.name].home}"
    for stage in plugin.manifest.applies.stages:
        members = {
            name: each
            for name, each in {**plugins, plugin.name: plugin}.items()
            if stage in each.manifest.applies.stages
        }
        try:
            TopologicalSorter(_waits(members)).prepare()
        except CycleError as error:
            chain = " waits for ".join(reversed(error.args[1]))
            return f"{plugin.home}/plugin.toml: order: no order suits everybody: {chain}; remove one of these"
    return None


def _waits(members: Mapping[str, Plugin]) -> dict[str, list[str]]:
    """Who waits for whom in one stage."""
    waits = {
        name: [other for other in (*each.manifest.order.after, *each.manifest.order.requires) if other in members]
        for name, each in members.items()
    }
    for name, each in members.items():
        for later in set(each.manifest.order.before) & members.keys():
            waits[later].append(name)
    return {name: sorted(set(others) - {name}) for name, others in sorted(waits.items())}
