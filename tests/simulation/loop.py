"""An event loop whose time is virtual and whose order is drawn from a seed: the same seed is the same run, bit by bit.

Everything that runs belongs to a simulated operating-system process. Callbacks of one process keep their order, as
asyncio promises; which process goes next is drawn. A process can die (nothing of it ever runs again), or stand still
and go on later with what it was doing. Its clocks are its own: they may go at another rate, and jump.
"""

import asyncio
import heapq
import time
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, TypeVarTuple

PROCESS: ContextVar["Process"] = ContextVar("process")
STEP_S = 0.000_02
"""What a step costs in virtual time: nothing happens at the same instant as anything else."""
CLOSES_MAX = 3
_MASK = (1 << 64) - 1
_real_monotonic = time.monotonic
_Ts = TypeVarTuple("_Ts")


class Process:
    """One process of the simulated world: its callbacks that are due, and its clocks."""

    def __init__(self, loop: "SimLoop", name: str, number: int, *, rate: float = 1.0) -> None:
        self.loop = loop
        self.name = name
        self.number = number
        self.ready: deque[events.Handle] = deque()
        self.is_dead = False
        self.is_paused = False
        self.wall_offset_s = 0.0
        self.context = Context()
        self.context.run(PROCESS.set, self)
        self.on_death: list[Callable[[], None]] = []
        self.on_pause: list[Callable[[], None]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._rate = rate
        self._world_origin = loop.now
        self._local_origin = 1000.0 * number

    def monotonic(self) -> float:
        """The process's own monotonic clock, seconds."""
        return self._local_origin + (self.loop.now - self._world_origin) * self._rate

    def world_time(self, local: float) -> float:
        """When the process's clock will show that."""
        return self._world_origin + (local - self._local_origin) / self._rate

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """The work runs in this process."""
        task = self.loop.create_task(work, context=self.context.copy())
        self.tasks.append(task)
        return task

    def die(self) -> None:
        """Nothing of the process ever runs again."""
        if self.is_dead:
            return
        self.is_dead = True
        self.ready.clear()
        self.loop.forget(self)
        for listener in self.on_death:
            listener()

    def pause(self) -> None:
        """The process stands still; what falls due meanwhile waits for it."""
        self.is_paused = True
        self.loop.forget(self)
        for listener in self.on_pause:
            listener()

    def resume(self) -> None:
        """The process goes on with what it was doing."""
        self.is_paused = False
        self.loop.remember(self)


class SimTask(asyncio.Task[Any]):
    """A task whose hash is its number: sets of tasks have the same order in every run."""

    def __init__(self, coro: Any, *, loop: "SimLoop", name: str | None = None, context: Context | None = None) -> None:
        self.number = loop.next_number()
        context = copy_context() if context is None else context
        self.process = context.get(PROCESS) or loop.world
        super().__init__(coro, loop=loop, name=name or "sim", context=context)
        loop.all_tasks.append(self)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.BaseEventLoop):
    """Runs the callbacks of all processes. `now` is the world's time in seconds; nothing of this reads a real clock."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self.rng = rng
        self.now = 0.0
        self.steps = 0
        self.trace = 0x9E3779B97F4A7C15
        self.all_tasks: list[SimTask] = []
        self.failures: list[str] = []
        self.countdown = -1
        self.is_buried = False
        self.on_countdown: Callable[[Process], None] | None = None
        self._number = 0
        self._timers: list[tuple[float, int, events.TimerHandle, Process]] = []
        self._active: list[Process] = []
        self.world = Process(self, "world", 0)
        self.current = self.world
        self.set_task_factory(_make_task)

    def next_number(self) -> int:
        """Never the same twice."""
        self._number += 1
        return self._number

    def mix(self, value: int) -> None:
        """The value is part of what two runs of a seed must have in common."""
        self.trace = ((self.trace ^ value) * 0x100000001B3) & _MASK

    def time(self) -> float:
        """The clock of the process that asks."""
        return self.current.monotonic()

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> events.Handle:
        """The callback is the next of its process, after those before it."""
        if context is None:
            context = copy_context()
        handle = events.Handle(callback, args, self, context)
        process = context.get(PROCESS) or self.world
        if not process.is_dead:
            if not process.ready and not process.is_paused:
                self._active.append(process)
            process.ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> events.TimerHandle:
        """The callback is due after so long, by the clock of its process."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> events.TimerHandle:
        """The callback is due when the clock of its process shows that."""
        if context is None:
            context = copy_context()
        handle = events.TimerHandle(when, callback, args, self, context)
        process = context.get(PROCESS) or self.world
        if not process.is_dead:
            at = max(self.now, process.world_time(when))
            heapq.heappush(self._timers, (at, self.next_number(), handle, process))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> events.Handle:
        """There are no threads here."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]  # noqa: ARG002
        """The function runs in a step of its own: there are no threads here."""
        future = self.create_future()

        def work() -> None:
            if future.done():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)

        self.call_soon(work)
        return future

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """It is dropped when it would fall due."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody caught is a failure of the run, except in a process that died before it could."""
        error, task = context.get("exception"), context.get("future")
        if isinstance(task, SimTask) and task.process.is_dead:
            return
        if error is not None and not isinstance(error, asyncio.CancelledError):
            self.failures.append(f"{context.get('message')}: {error!r}")

    def forget(self, process: Process) -> None:
        """The process is not chosen any more."""
        if process in self._active:
            self._active.remove(process)

    def remember(self, process: Process) -> None:
        """The process may be chosen again."""
        if process.ready and not process.is_dead and process not in self._active:
            self._active.append(process)

    def run_while(self, is_wanted: Callable[[], bool], *, until: float, steps_max: int) -> None:
        """Steps are made while they are wanted and the world's time allows. Raises RuntimeError over the bound."""
        events._set_running_loop(self)
        try:
            while self.now < until and is_wanted():
                if not self._step():
                    break
                if self.steps > steps_max:
                    raise RuntimeError(f"more than {steps_max} steps")
        finally:
            events._set_running_loop(None)
            self.current = self.world

    def _step(self) -> bool:
        active = self._active
        if not active and not self._reach_next_timer():
            return False
        self._take_what_is_due()
        if not active:
            return True
        index = int(self.rng.random() * len(active)) if len(active) > 1 else 0
        process = active[index]
        self.now += STEP_S
        self.steps += 1
        self.trace = ((self.trace ^ (process.number << 20 ^ self.steps)) * 0x100000001B3) & _MASK
        if self.countdown >= 0 and process.number:
            self.countdown -= 1
            if self.countdown < 0 and self.on_countdown is not None:
                self.on_countdown(process)
                return True
        handle = process.ready.popleft()
        if not process.ready:
            active[index] = active[-1]
            active.pop()
        if not handle.cancelled():
            self.current = process
            handle._run()
            self.current = self.world
        return True

    def _reach_next_timer(self) -> bool:
        """Nothing is to be done at this instant: the world's time is that of the next timer, if there is one."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            return False
        self.now = max(self.now, timers[0][0])
        return True

    def _take_what_is_due(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            _, _, timer, process = heapq.heappop(timers)
            if not timer.cancelled() and not process.is_dead:
                if not process.ready and not process.is_paused:
                    self._active.append(process)
                process.ready.append(timer)

    def bury(self) -> None:
        """What was left suspended is disposed of, where it can do nothing any more."""
        self.is_buried = True
        self.world.ready.clear()
        self._active.clear()
        self._timers.clear()
        events._set_running_loop(self)
        try:
            for task in self.all_tasks:  # what is begun meanwhile, to end others, is disposed of too
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
        finally:
            events._set_running_loop(None)
        self.all_tasks.clear()
        self.world.tasks.clear()


def _make_task(loop: Any, coro: Any, **options: Any) -> SimTask:
    return SimTask(coro, loop=loop, **options)


def _close(coro: Any) -> None:
    """It died long ago in the simulated world. One that waits for something at its end is closed there again."""
    for _ in range(CLOSES_MAX):
        try:
            coro.close()
        except BaseException:  # noqa: BLE001, S112 - nobody is left to hear of it
            continue
        return


@contextmanager
def virtual_time(loop: SimLoop) -> Iterator[None]:
    """`time.monotonic` is the clock of the process that asks."""
    time.monotonic = loop.time
    try:
        yield
    finally:
        time.monotonic = _real_monotonic
