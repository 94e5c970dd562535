"""The fleet without machines leaves no server behind, whenever who asked for one is cancelled."""

import asyncio
import gc
from typing import Any

import pytest

from services.machines.adapters.instant import NOWHERE, InstantFleet
from tests.integration.machines_bench import client_ca_pem, spec

STEPS_MAX = 12


async def troubles_of(steps: int) -> list[dict[str, Any]]:
    """What the event loop had to say of an agent that was asked for and ended, each given up after so many steps."""
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: said.append(trouble))
    fleet = InstantFleet(client_ca_pem=client_ca_pem())
    await fleet.restore(spec("m1"), epoch=1)
    authority = fleet.create_authority("m1")
    for asked in (
        fleet.enrol(NOWHERE, authority, "m1", lease_id="lea_1", epoch=1, lifetime_s=60, timeout_s=5),
        fleet.destroy("m1", epoch=2),
    ):
        task = asyncio.ensure_future(asked)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await fleet.close()
    del task
    gc.collect()  # a server that nobody stopped says so now
    await asyncio.sleep(0.05)
    gc.collect()
    return said


@pytest.mark.parametrize("steps", range(STEPS_MAX))
async def test_no_agent_outlives_its_fleet(steps: int) -> None:
    """Cancelled while it starts, while it stops, and not at all."""
    assert await troubles_of(steps) == []
