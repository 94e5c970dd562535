"""Reads the catalogue from directories whose sub-folders are plugins."""

from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.limits import REASON_MAX_CHARS
from malbox.sdk.manifest import ManifestError, load_manifest
from services.plugins.domain.catalogue import Catalogue, Plugin, Rejected, assembled

PLUGINS_MAX = 500
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
            found.append(load(folder))
        except (ManifestError, OSError) as error:
            rejected.append(Rejected(folder.name, str(error)[:REASON_MAX_CHARS]))
    return assembled(found, rejected)


def _folders(directories: Sequence[Path], rejected: list[Rejected]) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        try:
            children = sorted(child for child in directory.iterdir() if child.is_dir())
        except OSError as error:
            rejected.append(Rejected(directory.name, f"{directory}: {error.strerror}; correct plugin_dirs"))
            continue
        found.extend(child for child in children if not child.name.startswith(("_", ".")))
    too_many = f"more than {PLUGINS_MAX} plugins; remove what is not needed"
    rejected.extend(Rejected(folder.name, f"{folder}: {too_many}") for folder in found[PLUGINS_MAX:])
    return found[:PLUGINS_MAX]
