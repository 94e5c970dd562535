"""What happens in a guest of a test's own, and how its stage is ordered."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from services.plugins.ports_guest import (
    EvidenceFrame,
    ProcessExited,
    ProcessStarted,
    TreeEmpty,
)
from tests.integration.plugins_bench import (
    Bench,
    ScriptedGuest,
    guest_assignment,
)

SCRIPT = b"#!/bin/sh\necho hello\n"
Open = Callable[[ScriptedGuest], AbstractAsyncContextManager[Bench]]


async def order(bench: Bench, **request: Any) -> None:
    """A guest stage with the tracer is ordered."""
    hold_s = request.pop("hold_s", 300.0)
    await bench.order(
        SCRIPT, "syscalls", name="a b.sh", stage="guest", guest=guest_assignment(hold_s=hold_s), request=request
    )


async def short_life(guest: ScriptedGuest) -> None:
    """The sample writes some evidence and ends."""
    guest.say(ProcessStarted(1, 100, is_first=True))
    guest.say(EvidenceFrame(2, "syscalls", 1, b"execve(...) = 0\n", is_truncated=False))
    guest.say(EvidenceFrame(3, "stdout", 1, b"hello\n", is_truncated=False))
    guest.say(ProcessExited(4, 100, is_first=True, exit_code=0, signal=None))
    guest.say(TreeEmpty(5))


async def long_life(guest: ScriptedGuest) -> None:
    """The sample starts and stays."""
    guest.say(ProcessStarted(1, 100, is_first=True))
    guest.say(EvidenceFrame(2, "syscalls", 1, b"nanosleep(...)\n", is_truncated=False))
    await asyncio.sleep(600)
