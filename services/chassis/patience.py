"""Waiting: for an absent store, for something to do, for a task to end."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from services.chassis.store import StoreUnavailable

STORE_WAIT_S = 0.5
STORE_WAIT_MAX_S = 1_200.0  # the broker waits 30 minutes for an acknowledgement

log = structlog.get_logger()
T = TypeVar("T")


async def until_stored(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns once the store is there. Raises StoreUnavailable after STORE_WAIT_MAX_S."""
    give_up_at = time.monotonic() + STORE_WAIT_MAX_S
    while True:
        try:
            return await call()
        except StoreUnavailable as error:
            log.warning("store_was_unavailable", reason=str(error))
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(STORE_WAIT_S)


async def until_woken(wake: asyncio.Event, within_s: float) -> None:
    """The event is set, or the time is over.

    Not `asyncio.wait_for`: up to Python 3.11 that forgets a cancellation which comes as the event is set, and what was
    to end goes on for ever.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await wake.wait()


async def ended(task: asyncio.Task[Any], *expected: type[Exception]) -> None:
    """The task was cancelled and is over. Raises what it raised, unless that was expected.

    Not `await task` with its CancelledError suppressed: that forgets the caller's own cancellation as well.
    """
    task.cancel()
    seen(task)
    await asyncio.wait({task})
    if not task.cancelled() and (fault := task.exception()) is not None and not isinstance(fault, expected):
        raise fault


def seen(task: asyncio.Future[Any]) -> None:
    """What the task raises counts as looked at, also when whoever waits for it is cancelled first."""
    task.add_done_callback(lambda over: over.cancelled() or over.exception())
