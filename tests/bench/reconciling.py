"""One pass of reconciliation over machines that all stand as they should: what it costs to see that nothing differs."""

import tempfile
from pathlib import Path

from deploy.local.installation import Installation
from deploy.local.secrets import DATABASE_SUPERUSER
from tests.bench.measure import Reference, Row
from tests.conftest import create_database, drop_database
from tests.integration.machines_bench import bench, stand_ready

REFERENCE = Reference("-", "<= 2 s for 10 000, linear")
FLEETS = (1_000, 10_000)


async def reconciling(here: Installation, runs: int) -> list[Row]:
    """Seconds of one pass, for each size of fleet."""
    server = here.postgres().url(DATABASE_SUPERUSER, "postgres")
    return [await _pass(server, runs, size) for size in FLEETS]


async def _pass(server: str, runs: int, size: int) -> Row:
    database = await create_database(server)
    try:
        with tempfile.TemporaryDirectory() as directory:
            async with bench(database, Path(directory)) as made:
                await stand_ready(made, size)
                await made.caught_up()
                took = []
                for _ in range(runs):
                    report = await made.reconciler.pass_once()
                    if report.machines != size or report.found or report.fault:
                        raise RuntimeError(f"the pass saw {report}")
                    took.append(report.took_s)
    finally:
        await drop_database(server, database)
    return Row(
        name=f"reconcile {size:,} machines, one pass",
        what_ran=f"the whole fleet compared with its host, {size:,} ready machines that stand as recorded; the "
        "reconciler over asyncpg on a real PostgreSQL, the instant hypervisor (a fake that runs nothing)",
        unit="s",
        values=tuple(took),
        reference=REFERENCE,
    )
