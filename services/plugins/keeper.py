"""The instances of one plugin, or of one scope of it: started, checked, started again later and later, given up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

import structlog

from services.chassis.clock import Clock
from services.plugins.domain.catalogue import Plugin
from services.plugins.domain.occasion import Occasion
from services.plugins.errors import PluginNotReady, PluginQuarantined, SandboxLost, SandboxUnavailable
from services.plugins.policy.restarts import FAULTS_MAX, NO_FAULTS, STEADY_S, Faults
from services.plugins.ports import Sandbox, SandboxedRunner
from services.plugins.quarantine import GivenUp, Quarantine

CHECK_INTERVAL_S = 30.0
RUNS_MAX = 200  # runs of one instance have the same addresses: what one of them learned about them is worth little
State = Literal["starting", "ready", "busy", "backing_off", "quarantined"]

log = structlog.get_logger()


@dataclass
class Instance:
    """One sandbox, or the place of one, and what it is doing."""

    number: int
    plugin: Plugin
    scope: str | None
    since: datetime
    state: State = "starting"
    reason: str = ""
    occasion: Occasion | None = None
    runs: int = 0
    sandbox: Sandbox | None = None
    is_retired: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # a run, or a look at it, at a time


class Board(Protocol):
    """Where every instance is seen, and where what outlives a call runs."""

    clock: Clock
    quarantine: Quarantine

    def put_up(self, plugin: Plugin, scope: str | None) -> Instance:
        """It is seen from now on."""

    def take_down(self, instance: Instance) -> None:
        """It is seen no more."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """It runs as long as the service does, at most."""


class Health:
    """How one plugin fares, whatever its scopes: what counts against it, and whether it is given up."""

    def __init__(self, board: Board, plugin: Plugin) -> None:
        self.faults: Faults = NO_FAULTS
        self._board = board
        self._plugin = plugin
        self.given_up: Instance | None = None
        if (kept := board.quarantine.of(plugin)) is not None:
            self.faults = Faults(in_a_row=max(kept.times, FAULTS_MAX), last_at=_now(), reason=kept.reason)
            self._show_given_up(kept)

    def fault(self, reason: str) -> None:
        """It failed, and no run is to blame."""
        self.faults = self.faults.another(reason, _now())
        log.warning("plugin_failed_by_itself", plugin=self._plugin.name, times=self.faults.in_a_row, reason=reason)
        if self.faults.is_quarantined and self.given_up is None:
            kept = GivenUp(self._plugin.name, reason, self.faults.in_a_row, self._board.clock.now())
            self._show_given_up(kept)
            self._remember(kept)

    def hinder(self, reason: str) -> None:
        """It could not be started, and this host is to blame: the next start waits, and nothing counts against it."""
        self.faults = self.faults.hindered(reason, _now())
        log.warning(
            "plugin_could_not_be_started", plugin=self._plugin.name, times=self.faults.hindrances, reason=reason
        )

    def forgive(self) -> None:
        """It does well: nothing counts against it any more, unless it is given up, which others end."""
        if self.given_up is None:
            self.faults = NO_FAULTS

    def begin_anew(self) -> None:
        """Nothing counts against it any more, and it is not given up."""
        self.faults = NO_FAULTS
        if self.given_up is not None:
            self._board.take_down(self.given_up)
            self.given_up = None
            self._remember(None)

    @property
    def words(self) -> str:
        """Why it is given up."""
        times = self.faults.in_a_row
        return (
            f"the plugin {self._plugin.name} is quarantined: it failed {times} times in a row without a run being to "
            f"blame, last: {self.faults.reason}"
        )

    def _show_given_up(self, kept: GivenUp) -> None:
        self.given_up = self._board.put_up(self._plugin, None)
        self.given_up.state, self.given_up.reason, self.given_up.since = "quarantined", self.words, kept.since

    def _remember(self, kept: GivenUp | None) -> None:
        self._board.quarantine.put(self._plugin, kept)
        self._board.spawn(self._board.quarantine.save(self._plugin.digest))


class Keeper:
    """Serves the runs of one plugin in one scope, `most` at once. `is_kept`: one instance waits when none is asked."""

    def __init__(
        self, runner: SandboxedRunner, board: Board, health: Health, plugin: Plugin, *, scope: str | None, most: int
    ) -> None:
        self.plugin = plugin
        self.scope = scope
        self.used_at = 0.0
        self._runner = runner
        self._board = board
        self._health = health
        self._is_kept = scope is None
        self._places = asyncio.Semaphore(most)
        self._starting = asyncio.Lock()
        self._instances: list[Instance] = []
        self._is_over = False

    @property
    def is_idle(self) -> bool:
        """Whether no run is in it or on its way."""
        return all(one.state != "busy" and not one.turn.locked() for one in self._instances)

    @contextlib.asynccontextmanager
    async def taken(self, occasion: Occasion) -> AsyncIterator[Sandbox]:
        """An instance is this run's, and says so. Raises PluginNotReady, PluginQuarantined, SandboxUnavailable."""
        async with self._places:
            instance, sandbox = await self._free_or_new()
            try:
                self._show(instance, "busy", occasion=occasion)
                yield sandbox
            finally:
                instance.runs += 1
                self.used_at = _now()
                if sandbox.is_usable and not instance.is_retired and instance.runs < RUNS_MAX:
                    self._health.forgive()
                    self._show(instance, "ready")
                    instance.turn.release()
                else:
                    await self._drop(instance)
                    self._restore()

    async def keep_one(self) -> None:
        """An instance waits, or the plugin is quarantined; what fails is tried again, later each time."""
        while self._is_kept and not self._is_over and not self._instances and not self._health.faults.is_quarantined:
            with contextlib.suppress(PluginNotReady, PluginQuarantined, SandboxUnavailable):
                instance, _ = await self._free_or_new()
                if instance.is_retired:
                    await self._drop(instance)
                else:
                    instance.turn.release()

    async def replace(self) -> None:
        """What waits is closed, what runs is closed after its run; faults are forgotten; a kept one starts anew."""
        for instance in tuple(self._instances):
            instance.is_retired = True
            if not instance.turn.locked():
                await self._drop(instance)
        self._restore()

    async def drain(self) -> None:
        """What waits is closed, what runs is closed after its run, and nothing is started before a run asks for it."""
        self._is_kept = False
        await self.replace()

    async def end(self) -> None:
        """Nothing of it is left or comes again."""
        self._is_over = True
        for instance in tuple(self._instances):
            await self._drop(instance)

    async def _free_or_new(self) -> tuple[Instance, Sandbox]:
        """An instance whose turn is taken, and its sandbox."""
        for instance in self._instances:
            if instance.sandbox is not None and not instance.is_retired and not instance.turn.locked():
                await instance.turn.acquire()
                if instance.sandbox.is_usable:
                    return instance, instance.sandbox
                instance.turn.release()
        async with self._starting:
            return await self._new()

    async def _new(self) -> tuple[Instance, Sandbox]:
        if self._health.faults.is_quarantined:
            raise PluginQuarantined(self._health.words)
        instance = self._board.put_up(self.plugin, self.scope)
        self._instances.append(instance)
        await instance.turn.acquire()
        try:
            if (pause_s := self._health.faults.wait_s(_now())) > 0:
                self._show(instance, "backing_off", reason=self._health.faults.reason)
                await asyncio.sleep(pause_s)
            self._show(instance, "starting")
            instance.sandbox = await self._runner.start(self.plugin.manifest, self.plugin.folder)
        except PluginNotReady as error:
            self._health.fault(str(error))
            await self._drop(instance)
            raise
        except SandboxUnavailable as error:
            self._health.hinder(str(error))
            await self._drop(instance)
            raise
        except BaseException:
            await self._drop(instance)
            raise
        self._show(instance, "ready")
        self._board.spawn(self._watch(instance, instance.sandbox))
        return instance, instance.sandbox

    async def _watch(self, instance: Instance, sandbox: Sandbox) -> None:
        """Whoever ends between runs, or does not answer there, is a fault of the plugin's own."""
        began_at = _now()
        while not instance.is_retired:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    await sandbox.wait_ended()
            if instance.turn.locked():
                if sandbox.is_usable:
                    continue
                return  # a run took it along, or it is being closed
            async with instance.turn:
                try:
                    await sandbox.ping()
                except SandboxLost:
                    if not instance.is_retired:
                        self._health.fault("it ended, or did not answer, while no run was in it")
                    break
            if _now() - began_at > STEADY_S:
                self._health.forgive()
                if self._is_surplus(instance):
                    break
        if instance.turn.locked():
            return  # a run is in it or about to be: it ends well, and takes its instance down
        await self._drop(instance)
        await self.keep_one()

    def _is_surplus(self, instance: Instance) -> bool:
        """Others wait as well, and this one was not needed for a while."""
        return len(self._instances) > 1 and _now() - self.used_at > STEADY_S and not instance.turn.locked()

    async def _drop(self, instance: Instance) -> None:
        instance.is_retired = True
        if instance in self._instances:
            self._instances.remove(instance)
            self._board.take_down(instance)
        if instance.sandbox is not None:
            try:
                await instance.sandbox.close()
            except TimeoutError:
                log.exception("sandbox_did_not_end", plugin=self.plugin.name)

    def _restore(self) -> None:
        if self._is_kept and not self._is_over:
            self._board.spawn(self.keep_one())

    def _show(self, instance: Instance, state: State, *, reason: str = "", occasion: Occasion | None = None) -> None:
        instance.state, instance.reason, instance.occasion = state, reason, occasion
        instance.since = self._board.clock.now()


def _now() -> float:
    return asyncio.get_running_loop().time()
