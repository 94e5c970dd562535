"""Waiting to be woken."""

import asyncio

import pytest

from services.chassis.patience import until_woken


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
