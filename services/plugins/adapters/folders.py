"""Reads the catalogue from directories whose sub-folders are plugins."""

from collections.abc import Sequence
from pathlib import Path

from contracts.limits import REASON_MAX_CHARS
from malbox.sdk.manifest import ManifestError, load_manifest
from services.plugins.domain.catalogue import Catalogue, Plugin, Rejected

PLUGINS_MAX = 500
BUILTIN_DIR = Path(__file__).parent.parent / "builtin"


def read_catalogue(directories: Sequence[Path]) -> Catalogue:
    """Every plugin of the directories, the first of a name winning; what is not one is rejected with its reason."""
    plugins: dict[str, Plugin] = {}
    rejected: list[Rejected] = []
    for folder in _folders(directories, rejected)[:PLUGINS_MAX]:
        try:
            plugin = Plugin(load_manifest(folder), folder)
        except ManifestError as error:
            rejected.append(Rejected(folder.name, str(error)[:REASON_MAX_CHARS]))
            continue
        if plugin.name in plugins:
            first = plugins[plugin.name].folder
            rejected.append(Rejected(folder.name, f"{folder}: the name {plugin.name} is taken by {first}"))
        else:
            plugins[plugin.name] = plugin
    missing = _without_their_needs(plugins)
    rejected.extend(Rejected(plugins.pop(name).folder.name, reason) for name, reason in missing.items())
    return Catalogue(plugins, tuple(sorted(rejected, key=lambda entry: (entry.folder, entry.reason))))


def _folders(directories: Sequence[Path], rejected: list[Rejected]) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        try:
            children = sorted(directory.iterdir())
        except OSError as error:
            rejected.append(Rejected(directory.name, f"{directory}: {error.strerror}; correct plugin_dirs"))
            continue
        found.extend(child for child in children if child.is_dir() and not child.name.startswith(("_", ".")))
    return found


def _without_their_needs(plugins: dict[str, Plugin]) -> dict[str, str]:
    return {
        name: f"{plugin.folder}/plugin.toml: order.requires: there is no plugin {need}"
        for name, plugin in plugins.items()
        for need in plugin.manifest.order.requires
        if need not in plugins
    }
