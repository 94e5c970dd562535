"""docs/reference/settings.md: every key of every file of settings, from the models that refuse any other."""

from collections.abc import Iterator
from dataclasses import fields

from pydantic import BaseModel

from deploy.docs.conversation import first_sentence
from deploy.docs.shapes import table
from guest.settings import SETTINGS_FILE, AgentSettings
from malbox.sdk.manifest import About, Applies, Events, Manifest, Order, ResultSpec, Runtime, Scope
from services.chassis.settings import ServiceSettings
from services.intake.settings import IntakeSettings
from services.machines.adapters.libvirt_settings import LibvirtSettings
from services.machines.domain.spec import MachineSpec
from services.machines.settings import MachinesSettings
from services.plugins.settings import PluginsSettings
from services.results.settings import ResultsSettings
from services.scheduler.settings import SchedulerSettings

HEAD = """# Settings

Generated from the models that read the files by `make docs`; a test holds it to them. An unknown key is refused, with
the file and the key in the message.
"""
SERVICES: tuple[tuple[str, type[ServiceSettings]], ...] = (
    ("intake", IntakeSettings),
    ("scheduler", SchedulerSettings),
    ("machines", MachinesSettings),
    ("plugins", PluginsSettings),
    ("results", ResultsSettings),
)
MANIFEST: tuple[tuple[str, type[BaseModel]], ...] = (
    ("[plugin]", About),
    ("[runtime]", Runtime),
    ("[scope]", Scope),
    ("[order]", Order),
    ("[applies]", Applies),
    ("[events]", Events),
    ("[results.<name>]", ResultSpec),
)


def page() -> str:
    """The page."""
    return "\n".join([HEAD, *_services(), *_fleet(), *_agent(), *_manifest()]) + "\n"


def _services() -> Iterator[str]:
    yield "## Every service\n"
    yield "One TOML file for each service, named by `MALBOX_CONFIG`. On one machine `malbox up` writes it to"
    yield "`.malbox/etc/<service>.toml`, again at each start: what you change there does not last.\n"
    yield from table(ServiceSettings)
    for name, model in SERVICES:
        own = _own(model)
        yield f"\n## {name}\n"
        yield f"{first_sentence(model.__doc__)}\n"
        yield from (own or ["No keys of its own."])
    yield "\n## machines: [libvirt]\n"
    yield f"{first_sentence(LibvirtSettings.__doc__)}\n"
    yield from table(LibvirtSettings)


def _own(model: type[ServiceSettings]) -> list[str]:
    """The table without what every service has."""
    shared = {f"| `{name}`" for name in ServiceSettings.model_fields}
    rows = [row for row in table(model) if not any(row.startswith(start) for start in shared)]
    return rows if len(rows) > 2 else []  # noqa: PLR2004 - a head and a rule, and nothing under them


def _fleet() -> Iterator[str]:
    yield "\n## The machines of a host\n"
    yield "`machines_file`, on one machine `.malbox/etc/fleet.toml`. It is yours: written once, never overwritten. A"
    yield "table `[profile.<name>]` holds what the machines of a profile have in common; each `[[machine]]` has an"
    yield "`id`, a `profile`, and what differs. `id` becomes `machine_id`; `host` is the service's:\n"
    yield from table(MachineSpec)


def _agent() -> Iterator[str]:
    yield "\n## The agent in the guest\n"
    yield f"The environment (`MALBOX_` and the name in capitals) over `{SETTINGS_FILE}` over the default. The"
    yield "agent reports the effective settings in its handshake.\n"
    yield "| key | variable | default |"
    yield "|---|---|---|"
    for field in fields(AgentSettings):
        shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
        yield f"| `{field.name}` | `MALBOX_{field.name.upper()}` | `{shown}` |"


def _manifest() -> Iterator[str]:
    yield "\n## plugin.toml\n"
    yield "What a plugin's folder says of itself. `[config]` is a JSON Schema (draft 2020-12) of the plugin's"
    yield f"configuration; its defaults apply. Tables: {', '.join(f'`{name}`' for name in Manifest.model_fields)}."
    yield "The whole as JSON Schema, for an editor: [plugin.schema.json](plugin.schema.json).\n"
    for name, model in MANIFEST:
        yield f"### {name}\n"
        words = first_sentence(model.__doc__).partition(": ")[2]
        yield f"{words[:1].upper()}{words[1:]}\n"
        yield from table(model)
        yield ""
