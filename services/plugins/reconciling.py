"""Keeps the registry what the directories of plugins are, says what changed, and lets go of versions nobody needs.

Both an event and an interval lead here, and both do the same: read everything, compare, say the difference. What could
not be said is said the next time.
"""

import asyncio

import structlog

from contracts.envelope import Message
from contracts.planning import PlannedRun
from contracts.plugins import PluginRegistered, PluginRejected, PluginRemoved
from services.chassis.errors import TransientError
from services.chassis.run import Runtime
from services.plugins import rows
from services.plugins.domain.catalogue import Catalogue, Plugin
from services.plugins.instances import Instances
from services.plugins.ports_catalogue import PluginSource, Versions
from services.plugins.registry import Registry

INTERVAL_S = 60.0
KEPT_AFTER_S = 3600.0
"""A version that left the catalogue stays for so long, pinned or not: the word of a plan that pins it may be late."""
log = structlog.get_logger()


class Reconciler:
    """One at a time: `start` first, then `run` for as long as the service runs."""

    def __init__(
        self, runtime: Runtime, registry: Registry, source: PluginSource, versions: Versions, instances: Instances
    ) -> None:
        self._runtime = runtime
        self._registry = registry
        self._source = source
        self._versions = versions
        self._instances = instances
        self._replaced: dict[str, Plugin] = {}
        self._said = Catalogue({})

    async def start(self) -> None:
        """Everybody knows which plugins there are, which are there no more, and which folders are none."""
        known = await self._runtime.store.fetch("SELECT name FROM registered ORDER BY name")
        gone = [row["name"] for row in known if row["name"] not in self._registry.catalogue.plugins]
        await self._say(self._registry.catalogue, [PluginRemoved(name=name) for name in gone])

    async def run(self) -> None:
        """The registry follows the directories. Whoever lost the word of a plugin hears it again every minute."""
        loop = asyncio.get_running_loop()
        repeat_at = loop.time() + INTERVAL_S
        while True:
            await self._source.changed(max(0.0, repeat_at - loop.time()))
            is_due = loop.time() >= repeat_at
            try:
                await self._reconcile()
                if is_due:
                    await self._repeat()
                    await self._collect()
            except TransientError as error:
                log.warning("catalogue_was_not_said", reason=str(error))
            if is_due:
                repeat_at = loop.time() + INTERVAL_S

    async def _reconcile(self) -> None:
        catalogue = await self._source.read()
        await self._replace(catalogue)
        before = self._said
        facts: list[Message] = [
            PluginRemoved(name=name) for name in sorted(before.plugins) if name not in catalogue.plugins
        ]
        if facts or catalogue != before:
            await self._say(catalogue, facts)

    async def _replace(self, catalogue: Catalogue) -> None:
        """What is planned from here on is of that catalogue; what was replaced ends when its last run does."""
        before = self._registry.catalogue
        self._registry.replace(catalogue)
        for name, plugin in before.plugins.items():
            if catalogue.plugins.get(name) != plugin:
                self._replaced[plugin.digest] = plugin
                await self._instances.drain(plugin)
        if catalogue != before:
            self._instances.expect(self._registry.plugins())

    async def _say(self, catalogue: Catalogue, facts: list[Message]) -> None:
        """What is different from what was said before, after those facts."""
        unit, before = self._runtime.unit(), self._said
        for fact in facts:
            unit.say(fact)
        for name, plugin in sorted(catalogue.plugins.items()):
            if plugin != before.plugins.get(name):
                unit.say(PluginRegistered(manifest=plugin.public()))
        for rejected in catalogue.rejected:
            if rejected not in before.rejected:
                unit.say(PluginRejected(folder=rejected.folder, reason=rejected.reason))
        names = sorted(catalogue.plugins)
        unit.execute("DELETE FROM registered WHERE name <> ALL($1::text[])", names)
        unit.execute("INSERT INTO registered SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", names)
        await self._runtime.store.commit(unit)
        self._said = catalogue
        log.info("catalogue_was_said", plugins=len(catalogue.plugins), rejected=len(catalogue.rejected))

    async def _repeat(self) -> None:
        unit = self._runtime.unit()
        for _name, plugin in sorted(self._said.plugins.items()):
            unit.say(PluginRegistered(manifest=plugin.public()))
        await self._runtime.store.commit(unit)

    async def _collect(self) -> None:
        """Versions that no live plan pins are gone, in time."""
        pinned = await rows.load_pins(self._runtime.store)
        current = {plugin.digest for plugin in self._registry.plugins()}
        self._versions.mark_current(current)
        needed = current | {run.digest or self._digest_of(run) for run in pinned}
        for digest in self._versions.collect(needed, older_than_s=KEPT_AFTER_S):
            log.info("plugin_version_was_let_go", digest=digest)
            await self._instances.quarantine.forget(digest)
            if digest in self._replaced:
                await self._instances.forget(self._replaced.pop(digest))

    def _digest_of(self, run: PlannedRun) -> str:
        """Of a plan that is older than digests: whatever it would be given."""
        plugin = self._registry.pinned(run)
        return "" if plugin is None else plugin.digest
