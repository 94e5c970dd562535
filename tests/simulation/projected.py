"""What projections read and write, answered by hand: whole rows as JSON, which SQLite has no word for."""

import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from importlib.resources import files
from typing import Any
from uuid import UUID

import orjson

from services.chassis.projections import read_statement, write_statement
from services.machines import main as machines
from services.machines.projections import FLEET
from services.scheduler import main as scheduler
from services.scheduler.tables import TASKS
from tests.simulation.database import Database, Handwritten, Row, template
from tests.simulation.spelling import bound

FIRST = (files("services.chassis") / "schema.sql").read_text(encoding="utf-8")
_PROJECTED = ((FLEET, "machines", machines.MIGRATIONS), (TASKS, "scheduler", scheduler.MIGRATIONS))


def statements() -> Iterator[tuple[str, Handwritten]]:
    """Every statement of every projection, and what answers it."""
    for projection, schema, migrations in _PROJECTED:
        empty = sqlite3.connect(":memory:")
        empty.deserialize(template(schema, (FIRST, *migrations)))
        for table, key in projection.keys.items():
            types = {row[1]: row[2] for row in empty.execute(f"PRAGMA table_info({table})")}
            yield read_statement(table), partial(_read, table=table, types=types)
            yield write_statement(table, key, types), partial(_write, table=table, key=key, types=types)
        empty.close()


def _read(database: Database, arguments: tuple[Any, ...], *, table: str, types: dict[str, str]) -> list[Row]:
    """The rows of some streams."""
    found = database.run(f"SELECT * FROM {table} WHERE stream = ANY($1)", arguments)  # noqa: S608 - the simulation's own
    return [Row(stream=row["stream"], content=orjson.dumps(_as_json(row, types)).decode()) for row in found]


def _write(database: Database, arguments: tuple[Any, ...], *, table: str, key: str, types: dict[str, str]) -> list[Row]:
    """The rows stand in place of those with their key."""
    columns = sorted(types)
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns)
    for row in json.loads(arguments[0]):
        database.run(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) "  # noqa: S608 - the simulation's own
            f"ON CONFLICT ({key}) DO UPDATE SET {changed}",
            tuple(_as_stored(row[name], types[name]) for name in columns),
        )
    return []


def _as_json(row: Row, types: dict[str, str]) -> dict[str, Any]:
    return {name: json.loads(value) if types[name] == "jsonb_text" else value for name, value in row.items()}


def _as_stored(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "timestamptz_int":
        return bound(datetime.fromisoformat(value))
    if kind == "uuid_text":
        return UUID(value).hex
    return json.dumps(value) if kind == "jsonb_text" else value
