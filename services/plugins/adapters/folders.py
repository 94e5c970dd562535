"""Reads the catalogue from directories whose sub-folders are plugins."""

from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.limits import MESSAGE_MAX_BYTES, REASON_MAX_CHARS
from malbox.sdk.manifest import ManifestError, load_manifest
from services.plugins.adapters.versions import is_legible
from services.plugins.domain.catalogue import Catalogue, Plugin, Rejected, assembled

PLUGINS_MAX = 500
SAID_MAX_BYTES = MESSAGE_MAX_BYTES - 4096  # the envelope has room beside it
BUILTIN_DIR = Path(__file__).parent.parent / "builtin"
Load = Callable[[Path], Plugin]


def in_place(folder: Path) -> Plugin:
    """The plugin as it stands in its folder. Raises ManifestError."""
    return Plugin(load_manifest(folder), folder)


def read_catalogue(directories: Sequence[Path], load: Load = in_place) -> Catalogue:
    """Every plugin of the directories, the first of a name winning; what is not one is rejected with its reason."""
    found: list[Plugin] = []
    rejected: list[Rejected] = []
    for folder in _folders(directories, rejected):
        try:
            found.append(_sayable(load(folder)))
        except (ManifestError, OSError) as error:
            rejected.append(Rejected(folder.name, str(error)[:REASON_MAX_CHARS]))
    return assembled(found, rejected)


def _sayable(plugin: Plugin) -> Plugin:
    """The plugin, of which everybody can be told. Raises ManifestError."""
    try:
        size_bytes = len(plugin.public().model_dump_json().encode())
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{plugin.home}/plugin.toml: config: nested too deeply; make it flatter") from error
    if size_bytes > SAID_MAX_BYTES:
        words = f"{size_bytes} bytes of it are for others; the limit is {SAID_MAX_BYTES}; shorten what it describes"
        raise ManifestError(f"{plugin.home}/plugin.toml: {words}")
    return plugin


def _folders(directories: Sequence[Path], rejected: list[Rejected]) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        try:
            children = sorted(child for child in directory.iterdir() if child.is_dir())
        except OSError as error:
            rejected.append(Rejected(directory.name, f"{directory}: {error.strerror}; correct plugin_dirs"))
            continue
        named = [child for child in children if not child.name.startswith(("_", "."))]
        found.extend(child for child in named if is_legible(child))
        strange = (ascii(child.name)[1:-1] for child in named if not is_legible(child))
        rejected.extend(Rejected(name, f"{directory}: the name {name} is not UTF-8; rename it") for name in strange)
    too_many = f"more than {PLUGINS_MAX} plugins; remove what is not needed"
    rejected.extend(Rejected(folder.name, f"{folder}: {too_many}") for folder in found[PLUGINS_MAX:])
    return found[:PLUGINS_MAX]
