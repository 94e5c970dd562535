"""Every generated document, in one table: where it stands, and what it says."""

from collections.abc import Iterator
from pathlib import Path

from cli.reference import reference as cli_reference
from deploy.docs import http_page, lifecycles, messages, readmes, rules_page, schemas, settings_page
from deploy.local.state import SERVICES
from services.results.schema import document as report_schema

ROOT = Path(__file__).parents[2]
REFERENCE = "docs/reference"
SCHEMAS = f"{REFERENCE}/schemas"


def documents(root: Path) -> dict[str, str]:
    """Path below the root -> text, of every document that is generated in whole or in part."""
    return {
        "docs/lifecycles.md": lifecycles.page(),
        f"{REFERENCE}/messages.md": messages.page(),
        f"{REFERENCE}/settings.md": settings_page.page(),
        f"{REFERENCE}/http.md": http_page.page(),
        f"{REFERENCE}/rules.md": rules_page.page(),
        f"{REFERENCE}/cli.md": cli_reference(),
        f"{REFERENCE}/report.schema.json": report_schema(),
        f"{REFERENCE}/plugin.schema.json": schemas.manifest(),
        f"{REFERENCE}/asyncapi.json": schemas.asyncapi(),
        **{f"{SCHEMAS}/{name}": text for name, text in schemas.files().items()},
        **dict(_readmes(root)),
    }


def outdated(root: Path) -> list[str]:
    """The documents that are not what the code says, and schemas of messages that are no more."""
    stale = [path for path, text in documents(root).items() if _read(root / path) != text]
    return [*stale, *_orphans(root)]


def write(root: Path) -> list[str]:
    """Every document is what the code says. Returns those that changed."""
    wanted = documents(root)
    changed = outdated(root)
    for path in changed:
        if path in wanted:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(wanted[path], encoding="utf-8")
        else:
            (root / path).unlink()
    return changed


def _readmes(root: Path) -> Iterator[tuple[str, str]]:
    """READMEs of services with generated parts; one that has none is its service's own, and held by a test."""
    for service in SERVICES:
        path = f"services/{service}/README.md"
        readme = _read(root / path)
        if readme is not None and readmes.is_generated(readme):
            yield path, readmes.filled(readme, service)


def _orphans(root: Path) -> list[str]:
    known = schemas.files()
    return [f"{SCHEMAS}/{path.name}" for path in sorted((root / SCHEMAS).glob("*.json")) if path.name not in known]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
