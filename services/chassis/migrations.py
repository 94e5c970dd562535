"""Schema changes: numbered SQL, applied once each, in order, under a lock, before the service starts."""

from importlib.resources import files

from services.chassis.errors import PermanentError
from services.chassis.store import Store

_LOCK = 0x6D616C62  # "malb": one migration at a time per database


class SchemaIsNewer(PermanentError):
    """the database was written by a newer release of this service"""


def chassis_migrations() -> tuple[str, ...]:
    """What every service's schema begins with."""
    return ((files("services.chassis") / "schema.sql").read_text(encoding="utf-8"),)


async def migrate(store: Store, migrations: tuple[str, ...]) -> None:
    """The schema is that of this release. Raises SchemaIsNewer, StoreUnavailable."""
    wanted = (*chassis_migrations(), *migrations)
    async with store.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute("CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY)")
        done = await connection.fetchval("SELECT count(*) FROM migrations")
        if done > len(wanted):
            raise SchemaIsNewer(f"schema {store.schema} is at {done}, this release knows {len(wanted)}")
        for number, sql in list(enumerate(wanted, start=1))[done:]:
            await connection.execute(sql)
            await connection.execute("INSERT INTO migrations VALUES ($1)", number)
