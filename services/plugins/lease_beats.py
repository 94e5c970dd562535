"""The driver of a lease says that it lives, so that machines can tell a slow task from a lost one.

Most tasks are over before anybody could miss their driver, so its first beat comes after one interval. Who adopts a
lease says so at once: until then it is the one before that is missed.
"""

import asyncio
import contextlib

from contracts.ids import derived
from contracts.machines import LeaseRef
from contracts.plugins import LeaseBeat
from services.chassis.errors import TransientError
from services.chassis.unit import Unit
from services.chassis.work import WorkContext

BEAT_S = 5.0
FIRST_TERM = 1  # known to machines from the grant


async def say_beats(work: WorkContext, task_id: str, lease: LeaseRef) -> None:
    """A beat is said every five seconds until cancelled. One that cannot be stored is left out.

    Raises Fenced when another driver has the stage.
    """
    beat = 0
    if lease.term == FIRST_TERM:
        await asyncio.sleep(BEAT_S)
    while True:
        beat += 1
        said = LeaseBeat(task_id=task_id, lease=lease, beat=beat)

        async def decide(unit: Unit, said: LeaseBeat = said) -> None:
            unit.say(said, message_id=derived("msg", said.type_name(), lease.lease_id, lease.term, said.beat))

        with contextlib.suppress(TransientError):
            await work.commit(decide)
        await asyncio.sleep(BEAT_S)
