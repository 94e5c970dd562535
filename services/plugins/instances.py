"""Every instance of a host plugin in this process, by the lifecycle that its manifest asks for, and what each does.

ephemeral: a sandbox for each run. persistent: sandboxes that serve the runs of all tasks, one of which waits always.
scoped: a sandbox for each value of the scope's key, which ends with the last stage that shares it.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

from services.chassis.clock import Clock
from services.plugins.domain.catalogue import Plugin
from services.plugins.domain.occasion import Occasion
from services.plugins.errors import PluginNotReady, PluginQuarantined
from services.plugins.keeper import Health, Instance, Keeper
from services.plugins.ports import SandboxedRunner, SandboxReport, SandboxRequest
from services.plugins.quarantine import Quarantine

SCOPED_MAX = 32
LINGER_S = 10.0  # between two stages of a task, such as guest and post, nobody holds its scope for a moment
Place = tuple[str, str, str, str | None]


class Instances:
    """Implements Board. Serves runs while `run` runs; `most` at once of each persistent plugin."""

    def __init__(
        self, runner: SandboxedRunner, clock: Clock, *, most: int, quarantine: Quarantine | None = None
    ) -> None:
        self.clock = clock
        self.quarantine = quarantine or Quarantine()
        self._runner = runner
        self._most = most
        self._numbers = itertools.count(1)
        self._seen: dict[int, Instance] = {}
        self._keepers: dict[Place, Keeper] = {}
        self._health: dict[Place, Health] = {}
        self._held: Counter[str] = Counter()
        self._group: asyncio.TaskGroup | None = None
        self._is_open = asyncio.Event()

    async def run(self, plugins: Callable[[], Iterable[Plugin]]) -> None:
        """Instances are kept until this is cancelled; then none is left. Persistent plugins are started now."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._is_open.set()
                self.expect(plugins())
                await asyncio.get_running_loop().create_future()  # until it is cancelled
        finally:
            self._is_open.clear()
            await asyncio.gather(*(keeper.end() for keeper in self._keepers.values()))

    @contextlib.asynccontextmanager
    async def running(self, plugins: Callable[[], Iterable[Plugin]] = tuple) -> AsyncIterator[None]:
        """The same for as long as the block lasts."""
        serving = asyncio.create_task(self.run(plugins))
        try:
            yield
        finally:
            serving.cancel()
            await asyncio.wait({serving})
            if not serving.cancelled():
                serving.result()

    def expect(self, plugins: Iterable[Plugin]) -> None:
        """Those of them that are persistent have an instance that waits; those that are given up are seen."""
        for plugin in plugins:
            if self.quarantine.of(plugin) is not None:
                self._health_of(plugin)
            if plugin.manifest.plugin.kind == "host" and plugin.manifest.runtime.lifecycle == "persistent":
                self.spawn(self._keeper(plugin, None).keep_one())

    async def use(self, plugin: Plugin, occasion: Occasion, request: SandboxRequest) -> SandboxReport:
        """The plugin ran, in an instance that its lifecycle allows. Raises SandboxUnavailable."""
        if plugin.manifest.runtime.lifecycle == "ephemeral":
            return await self._once(plugin, occasion, request)
        await self._is_open.wait()
        scope = plugin.manifest.scope
        keeper = self._keeper(plugin, occasion.scope(scope.key) if scope is not None else None)
        try:
            async with keeper.taken(occasion) as sandbox:
                return await sandbox.run(request)
        except PluginNotReady as error:
            return SandboxReport("crashed", str(error), (), error.log, 0)
        except PluginQuarantined as error:
            return SandboxReport("failed", str(error), (), b"", 0)

    @contextlib.asynccontextmanager
    async def holding(self, occasion: Occasion) -> AsyncIterator[None]:
        """What is scoped to this stage ends with the block; what is scoped to more, a little after its last holder."""
        scopes = occasion.scopes()
        self._held.update(scopes)
        try:
            yield
        finally:
            self._held.subtract(scopes)
            self._held += Counter()  # forgets those at nought
            await self._end_scope(occasion.scope("stage"))
            for scope in scopes - {occasion.scope("stage")}:
                if any(keeper.scope == scope for keeper in self._keepers.values()):
                    self.spawn(self._end_scope_later(scope))

    async def replace(self, name: str) -> bool:
        """Its instances end, busy ones after their run, and its faults are forgotten. Whether the plugin has any.

        Raises StoreUnavailable: then a plugin that was given up is so still.
        """
        was_given_up = await self.quarantine.lift(name)
        found = [place for place in self._health if place[0] == name]
        for place in found:
            self._health[place].begin_anew()
        for place, keeper in tuple(self._keepers.items()):
            if place[0] == name:
                await keeper.replace()
        return bool(found) or was_given_up

    async def drain(self, plugin: Plugin) -> None:
        """Another took the plugin's place: of exactly this one nothing waits any more, and runs that go on end well."""
        keeper = self._keepers.get(_place(plugin))
        if keeper is not None:
            await keeper.drain()

    async def forget(self, plugin: Plugin) -> None:
        """Of exactly this plugin there are no instances, nor do any come again by themselves."""
        for place in [place for place in self._keepers if place[:3] == _place(plugin)[:3]]:
            await self._keepers.pop(place).end()
        health = self._health.pop(_place(plugin), None)
        if health is not None:
            health.begin_anew()

    def given_up(self, plugin: Plugin) -> Instance | None:
        """What is seen of exactly this plugin since it was quarantined, if it is."""
        health = self._health.get(_place(plugin))
        return None if health is None else health.given_up

    def seen(self) -> list[Instance]:
        """What every instance does at this moment, in the order of their numbers."""
        return [self._seen[number] for number in sorted(self._seen)]

    def put_up(self, plugin: Plugin, scope: str | None) -> Instance:
        """It is seen from now on."""
        instance = Instance(next(self._numbers), plugin, scope, self.clock.now())
        self._seen[instance.number] = instance
        return instance

    def take_down(self, instance: Instance) -> None:
        """It is seen no more."""
        self._seen.pop(instance.number, None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """It runs as long as `run` does, at most."""
        if self._group is None or not self._is_open.is_set():
            work.close()
        else:
            self._group.create_task(work)

    async def _once(self, plugin: Plugin, occasion: Occasion, request: SandboxRequest) -> SandboxReport:
        instance = self.put_up(plugin, None)
        instance.state, instance.occasion = "busy", occasion
        try:
            return await self._runner.run(request)
        finally:
            self.take_down(instance)

    def _keeper(self, plugin: Plugin, scope: str | None) -> Keeper:
        place = _place(plugin, scope)
        if place not in self._keepers:
            if scope is not None:
                self._make_room()
            health = self._health_of(plugin)
            most = self._most if scope is None else 1
            self._keepers[place] = Keeper(self._runner, self, health, plugin, scope=scope, most=most)
        return self._keepers[place]

    def _health_of(self, plugin: Plugin) -> Health:
        place = _place(plugin)
        if place not in self._health:
            self._health[place] = Health(self, plugin)
        return self._health[place]

    def _make_room(self) -> None:
        """Of the scoped ones the one that was idle for longest ends, where they are too many."""
        scoped = {place: keeper for place, keeper in self._keepers.items() if keeper.scope is not None}
        idle = [place for place, keeper in scoped.items() if keeper.is_idle]
        if len(scoped) >= SCOPED_MAX and idle:
            oldest = min(idle, key=lambda place: scoped[place].used_at)
            self.spawn(self._keepers.pop(oldest).end())

    async def _end_scope_later(self, scope: str) -> None:
        await asyncio.sleep(LINGER_S)
        await self._end_scope(scope)

    async def _end_scope(self, scope: str) -> None:
        if self._held[scope] == 0:
            for place in [place for place, keeper in self._keepers.items() if keeper.scope == scope]:
                await self._keepers.pop(place).end()


def _place(plugin: Plugin, scope: str | None = None) -> Place:
    return plugin.name, plugin.version, str(plugin.folder), scope
