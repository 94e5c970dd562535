"""Waiting to be woken, and for a task to end."""

import asyncio
import gc
from typing import Any

import pytest

from services.chassis.patience import ended, until_woken


async def test_a_cancellation_that_comes_with_the_wake_is_not_forgotten() -> None:
    """What is told to end ends, however close the two are."""
    wake = asyncio.Event()
    task = asyncio.create_task(until_woken(wake, 30))
    await asyncio.sleep(0)
    wake.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_waiting_ends_with_the_wake_or_with_the_time() -> None:
    """Both are an end without a fault."""
    wake = asyncio.Event()
    await until_woken(wake, 0.001)
    wake.set()
    await until_woken(wake, 30)


async def reluctant(fault: Exception | None = None) -> None:
    """It ends a moment after it was told to, as what has a connection to close does."""
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.05)
        if fault is not None:
            raise fault


async def begun(fault: Exception | None = None) -> asyncio.Task[None]:
    """Such a task, which has begun."""
    task = asyncio.create_task(reluctant(fault))
    await asyncio.sleep(0)
    return task


async def test_whoever_is_cancelled_while_it_ends_a_task_is_cancelled() -> None:
    """The task's own cancellation is no fault, and does not hide that of whoever waits for its end."""
    await ended(await begun())
    task = await begun()
    caller = asyncio.create_task(ended(task))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait({task})


async def test_a_fault_for_which_nobody_waits_any_longer_is_not_called_lost() -> None:
    """Whoever waits may be cancelled as the task fails: the loop has nothing to complain of."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    task = await begun(ValueError("a defect"))
    caller = asyncio.create_task(ended(task))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({task, caller})
    del task, caller
    gc.collect()
    assert not complaints


async def test_what_a_task_raises_at_its_end_is_raised_unless_it_was_expected() -> None:
    """No fault is lost that nobody spoke of."""
    await ended(await begun(OSError("gone")), OSError)
    with pytest.raises(ValueError, match="a defect"):
        await ended(await begun(ValueError("a defect")), OSError)
