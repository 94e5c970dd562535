"""The bundled guest plugins of one stage: started, told, ended, and what each came to. None of them harms another.

What goes wrong with one is its own outcome. What goes wrong with the guest shows in the calls that are for all.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

import structlog

from contracts.planning import PlannedRun
from contracts.plugins import RunError, RunOutcome
from contracts.scheduler import RunStage
from malbox.sdk.manifest import ManifestError
from services.chassis.store import StoreUnavailable
from services.plugins import rows
from services.plugins.adapters.bundles import write_bundle
from services.plugins.domain.catalogue import Plugin
from services.plugins.events import subscribed
from services.plugins.guest_pieces import PluginRecord
from services.plugins.ports_guest import GuestLied, GuestRefused, GuestSession, GuestUnreachable, PluginLimits
from services.plugins.record import Ending, Evidence, StageRecord
from services.plugins.registry import Registry
from services.plugins.task_news import TaskNews

CAPABILITY = "plugins"
STARTED_AT_ONCE = 4  # the agent answers eight calls at once, a watch and a heartbeat among them
FACT_MAX_BYTES = 32 * 1024
FAULTS = (GuestUnreachable, GuestRefused, GuestLied)
LOST = "the guest was lost before the plugin said how it ended"
log = structlog.get_logger()


@dataclass
class GuestPlugins:
    """The bundled ones of the plan, by name. `directory` gets their bundles and their evidence."""

    record: StageRecord
    session: GuestSession
    directory: Path
    capabilities: tuple[str, ...]
    plugins: dict[str, tuple[PlannedRun, Plugin]]
    records: dict[str, PluginRecord] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    untold: Counter[str] = field(default_factory=Counter)

    async def start(self, names: Sequence[str]) -> None:
        """Those of one group are ready, or ended."""
        places = asyncio.Semaphore(STARTED_AT_ONCE)

        async def start(name: str) -> None:
            async with places:
                await self._start(name)

        await _all(start, [name for name in names if name in self.plugins])

    async def keep_telling(self, news: TaskNews) -> None:
        """Facts that are said from now on reach who subscribed to them, until this is cancelled."""
        kinds = subscribed(self._subscribers())
        if not kinds:
            return
        task_id = self.record.command.task_id
        event = news.of(task_id, kinds)
        try:
            while True:
                event.clear()
                await self.tell()
                await event.wait()
        finally:
            news.forget(task_id)

    async def tell(self) -> None:
        """Whatever was said of the task until now was told to who subscribed to it; each fact once."""
        subscribers = self._subscribers()
        kinds = subscribed(subscribers)
        store, task_id = self.record.work.store, self.record.command.task_id
        with contextlib.suppress(*FAULTS, StoreUnavailable):  # who watches the guest finds out; what was said, stays
            while kinds and (untold := await rows.load_untold(store, task_id, kinds, self.told)):
                for message_id, fact in untold:
                    name, content = type(fact).__name__, fact.model_dump(mode="json")
                    for plugin in subscribers:
                        if plugin.manifest.events.wants(name, content):
                            await self._tell(plugin.name, message_id, name, content)
                    self.told.add(message_id)

    async def end(self) -> None:
        """Nothing of them is left in the guest, and how each ended is known."""
        await _all(self._end, [name for name in self.plugins if name not in self.endings])

    def outcomes(self) -> list[tuple[PlannedRun, Ending, list[Evidence]]]:
        """Each with its outcome and its evidence."""
        return [
            (planned, self._ending(name), self.records[name].evidence())
            for name, (planned, _plugin) in self.plugins.items()
        ]

    def missing(self) -> list[RunError]:
        """What is missing from the evidence of each, by its own count and by the guest's, and from what it was told."""
        found = []
        for name, one in self.records.items():
            if one.gaps or one.repeats:
                words = f"{one.gaps} pieces of its evidence never came, {one.repeats} came again"
                found.append(RunError(plugin=name, stage="guest", outcome="failed", reason=words))
            if self.untold[name] and self._ending(name).outcome == "completed":
                words = f"{self.untold[name]} facts that it subscribes to could not be told to it"
                found.append(RunError(plugin=name, stage="guest", outcome="failed", reason=words))
        return found

    async def _start(self, name: str) -> None:
        planned, plugin = self.plugins[name]
        manifest, bundle = plugin.manifest, self.directory / f"{name}.zip"
        await self.record.run_started(planned.plugin, planned.version)
        if CAPABILITY not in self.capabilities:
            self._fail(name, "the machine's image is older than guest plugins; build it again: make image")
            return
        try:
            config = manifest.effective_config(planned.config)
            await asyncio.to_thread(write_bundle, manifest, plugin.folder, bundle)
            runtime = manifest.runtime
            bounds = PluginLimits(runtime.timeout_s, runtime.memory_mib, runtime.scratch_mib, runtime.capabilities)
            await self.session.start_plugin(name, bundle, config, bounds)
        except (ManifestError, OSError, GuestRefused) as error:
            self._fail(name, str(error))
        finally:
            bundle.unlink(missing_ok=True)

    async def _tell(self, plugin: str, message_id: str, fact: str, content: dict[str, object]) -> None:
        if not await self.session.tell(plugin, message_id, fact, content):
            self.untold[plugin] += 1
            log.warning("guest_plugin_was_not_told", plugin=plugin, fact=fact)

    async def _end(self, name: str) -> None:
        record = self.records[name]
        try:
            said = await self.session.end_plugin(name)
        except FAULTS as error:
            self._fail(name, f"the guest did not say how it ended: {error}")
            return
        record.expect(said.pieces)
        if said.outcome in get_args(RunOutcome):
            outcome = cast("RunOutcome", said.outcome)
            self.endings[name] = Ending(
                outcome, said.reason, self._is_error(name, outcome), min(said.duration_ms, 2**31 - 1), said.log
            )
        else:
            self._fail(name, "the guest did not say how it ended")

    def _ending(self, name: str) -> Ending:
        """A plugin that broke a rule failed, whatever the guest says of it."""
        ending, fault = self.endings.get(name, Ending("failed", LOST, is_error=True)), self.records[name].fault
        if not fault:
            return ending
        return Ending("failed", fault, is_error=True, duration_ms=ending.duration_ms, log=ending.log)

    def _fail(self, name: str, reason: str) -> None:
        self.endings[name] = Ending("failed", reason, is_error=True)

    def _is_error(self, name: str, outcome: RunOutcome) -> bool:
        """A plugin that the submitter named is expected to have something to say."""
        is_asked_for = any(choice.name == name for choice in self.record.command.request.plugins or ())
        return outcome in ("failed", "crashed", "timed_out") or (outcome == "skipped" and is_asked_for)

    def _subscribers(self) -> list[Plugin]:
        """Those that subscribe to anything, and are there to be told."""
        found = [plugin for name, (_planned, plugin) in self.plugins.items() if name not in self.endings]
        return [plugin for plugin in found if plugin.manifest.events.subscribe]


def bundled(
    record: StageRecord, session: GuestSession, directory: Path, capabilities: tuple[str, ...], registry: Registry
) -> GuestPlugins:
    """The plan's bundled plugins, each with an empty record."""
    planned = [run for group in record.command.stage.groups for run in group]
    found = {run.plugin: (run, plugin) for run in planned if (plugin := registry.pinned(run)) and _is_bundled(plugin)}
    records = {name: PluginRecord(plugin.manifest, directory) for name, (_run, plugin) in found.items()}
    return GuestPlugins(record, session, directory, capabilities, found, records)


def keeping_alive(command: RunStage, registry: Registry) -> frozenset[str]:
    """The guest plugins of the plan whose manifest says that they may keep the observation going."""
    found = [registry.pinned(run) for group in command.stage.groups for run in group]
    return frozenset(plugin.name for plugin in found if plugin is not None and plugin.manifest.runtime.keepalive)


def titles(command: RunStage, registry: Registry) -> dict[str, str]:
    """By plugin of the plan: what its manifest calls the result that has its own name."""
    found = [registry.pinned(run) for group in command.stage.groups for run in group]
    return {plugin.name: plugin.manifest.title_of(plugin.name) for plugin in found if plugin is not None}


def _is_bundled(plugin: Plugin) -> bool:
    return plugin.manifest.is_bundled


async def _all(act: Callable[[str], Awaitable[None]], names: Sequence[str]) -> None:
    """At once. Raises the first fault."""
    for outcome in await asyncio.gather(*(act(name) for name in names), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
