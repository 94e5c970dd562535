"""A service whose process dies of one message: it leaves a row for every sample, and ends at once for `poison`.

MALBOX_CONFIG=<toml> python -m tests.integration.deadly_service
"""

import os

from contracts.envelope import Message
from contracts.intake import SampleStored
from contracts.scheduler import SealReport
from services.chassis.run import Runtime, Service, run
from services.chassis.settings import ServiceSettings, load_settings
from services.chassis.store import Store
from services.chassis.unit import Unit
from tests.integration.chassis_bench import NAME, SEEN, note

POISON = "poison"
EXIT_STATUS = 70


async def on_sample_stored(fact: SampleStored, unit: Unit, store: Store) -> None:
    """The process is gone, as by a fault in a library; any other sample leaves a row."""
    if fact.owner == POISON:
        os._exit(EXIT_STATUS)
    await note(fact, unit, store)


async def refuse(_command: Message, _unit: Unit, _store: Store) -> None:
    """Nobody sends it."""
    raise AssertionError


async def compose(_runtime: Runtime) -> Service:
    """One handler that matters, and one that gives the service its second queue."""
    return Service(handlers={SampleStored: on_sample_stored, SealReport: refuse})


if __name__ == "__main__":
    run(NAME, load_settings(ServiceSettings), compose, migrations=(SEEN,))
