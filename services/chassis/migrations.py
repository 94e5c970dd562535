"""Schema changes: numbered SQL, applied once each, in order, under a lock, before the service starts.

Two rows of numbers: `migrations` holds the chassis's first tables and then the service's own changes,
`chassis_migrations` what the chassis added since, so that each can grow at its end without renumbering the other.
"""

from importlib.resources import files

from services.chassis.errors import PermanentError
from services.chassis.store import Connection, Store

_LOCK = 0x6D616C62  # "malb": one migration at a time per database
_FIRST = "schema.sql"
_LATER = tuple(f"schema_{number}.sql" for number in range(2, 9))


class SchemaIsNewer(PermanentError):
    """the database was written by a newer release of this service"""


async def migrate(store: Store, migrations: tuple[str, ...]) -> None:
    """The schema is that of this release. Raises SchemaIsNewer, StoreUnavailable."""
    async with store.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await _apply(connection, store.schema, "migrations", (_text(_FIRST), *migrations))
        await _apply(connection, store.schema, "chassis_migrations", tuple(map(_text, _LATER)))


async def _apply(connection: Connection, schema: str, numbers: str, wanted: tuple[str, ...]) -> None:
    await connection.execute(f"CREATE TABLE IF NOT EXISTS {numbers} (number integer PRIMARY KEY)")
    done = await connection.fetchval(f"SELECT count(*) FROM {numbers}")  # noqa: S608 - a name from our own code
    if done > len(wanted):
        raise SchemaIsNewer(f"schema {schema} is at {done} in {numbers}, this release knows {len(wanted)}")
    for number, sql in list(enumerate(wanted, start=1))[done:]:
        await connection.execute(sql)
        await connection.execute(f"INSERT INTO {numbers} VALUES ($1)", number)  # noqa: S608 - a name from our own code


def _text(name: str) -> str:
    return (files("services.chassis") / name).read_text(encoding="utf-8")
