"""The plugins there are, and the folders that are none, with the reason."""

from dataclasses import dataclass
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

    def find(self, name: str, version: str) -> Plugin | None:
        """The plugin in exactly that version."""
        plugin = self.plugins.get(name)
        return plugin if plugin is not None and plugin.version == version else None
