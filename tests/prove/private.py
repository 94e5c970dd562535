"""A private installation for one proof: real servers, the five services, real machines; gone afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from deploy.local import accounts, images, settings
from deploy.local.state import locate
from tests.bench import tasks
from tests.bench.bed import Bed, Fleet, bed
from tests.prove.facts import ear
from tests.prove.ground import Ground
from tests.prove.report import tell

CHECKOUT = Path(__file__).resolve().parents[2]
BUILT_TIMEOUT_S = 600.0  # UEFI takes a minute to boot under emulation, and several when the processors are busy
READY_TIMEOUT_S = 180.0

T = TypeVar("T")


def on_private_ground(prove: Callable[[Ground], Awaitable[T]], *, firmware: str = "bios") -> T:
    """What the proof returns, given a machine that is ready in an installation where everything runs."""
    main = locate(CHECKOUT)
    accounts.ensure()
    main.prepare()
    images.ensure(main)
    tell("starting servers, services and a machine of the linux image")
    with bed(main, Fleet(1, is_instant=False, firmware=firmware, routes=tuple(settings.routes()))) as made:
        return asyncio.run(_on(made, prove))


async def _on(made: Bed, prove: Callable[[Ground], Awaitable[T]]) -> T:
    async with ear(made.here) as listening:
        ground = Ground(made.here, listening)
        await ground.made_ready(timeout_s=BUILT_TIMEOUT_S)
        await tasks.warm_up(made.origin, tasks.GUEST_ONLY, timeout_s=READY_TIMEOUT_S)
        await ground.made_ready()
        return await prove(ground)
