"""`pytest -p tests.jitter`: everything that waits for the database or the broker waits a random while longer.

A test that holds only while one of two concurrent things is the faster one fails here sooner than in a thousand runs
on a quiet machine. MALBOX_JITTER is the seed; each test draws its own waits from it and from its name. Only what runs
in the process of the tests is delayed.
"""

import asyncio
import functools
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from services.chassis.bus import Consumer

SEED = os.environ.get("MALBOX_JITTER", "1")
MEAN_S = 0.015
"""Most waits are as short as those of a busy machine."""
STALL_S = 0.3
STALLS = 0.03
"""This part of the waits is as long as what a machine out of breath shows."""

_draw = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret


def _delayed(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def delayed(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(STALL_S if _draw.random() < STALLS else _draw.expovariate(1 / MEAN_S))
        return await function(*arguments, **named)

    return delayed


def pytest_configure() -> None:
    """The waits are in place before the first test."""
    for owner, name in (
        (asyncpg.pool.Pool, "_acquire"),
        (asyncpg.pool.Pool, "release"),
        (Consumer, "_receive"),
    ):
        setattr(owner, name, _delayed(getattr(owner, name)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same test meets the same waits, whatever ran before it."""
    _draw.seed(f"{SEED} {item.nodeid}")
