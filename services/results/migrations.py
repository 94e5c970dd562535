"""Changes of this service's schema, oldest first. A released one is never edited."""

from importlib.resources import files

MIGRATIONS: tuple[str, ...] = ((files("services.results") / "schema.sql").read_text(encoding="utf-8"),)
