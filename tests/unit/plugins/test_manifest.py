"""The manifest is strict, and says what to change where."""

from pathlib import Path

import pytest

from malbox.sdk.manifest import ManifestError, load_manifest

BUILTIN = Path(__file__).parents[3] / "services/plugins/builtin"
GOOD = """\
[plugin]
name = "counter"
version = "1.0.0"
description = "Counts."
kind = "host"

[applies]
stages = ["static"]

[config]
type = "object"
[config.properties.limit]
type = "integer"
default = 3

[results.count]
kind = "json"
title = "Count"

[results.piece]
kind = "file"
title = "Pieces"
is_many = true
"""


def folder_with(tmp_path: Path, text: str) -> Path:
    (tmp_path / "plugin.toml").write_text(text, encoding="utf-8")
    (tmp_path / "plugin.py").write_text("def run(context): ...\n", encoding="utf-8")
    return tmp_path


def test_a_good_manifest_is_read(tmp_path: Path) -> None:
    """Positive control of every refusal below: the same text, unchanged, loads."""
    manifest = load_manifest(folder_with(tmp_path, GOOD))
    assert manifest.plugin.name == "counter"
    assert manifest.runtime.timeout_s == 60


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ('version = "1.0.0"', 'version = "one"', 3, "plugin.version"),
        ('kind = "host"\n\n', 'kind = "host"\ncolour = "red"\n\n', 6, "plugin.colour"),
        ('stages = ["static"]', 'stages = ["nightly"]', 8, "applies.stages"),
        ('kind = "json"', 'kind = "xml"', 17, "results.count.kind"),
    ],
)
def test_a_fault_names_file_line_and_key(tmp_path: Path, old: str, new: str, line: int, key: str) -> None:
    """Whoever wrote the manifest finds the fault without reading our code."""
    folder = folder_with(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ManifestError) as fault:
        load_manifest(folder)
    assert str(fault.value).startswith(f"{folder / 'plugin.toml'}:{line}: {key}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[plugin", "not TOML"),
        (GOOD.replace('kind = "host"', 'kind = "guest"'), "a guest plugin has stages"),
        (GOOD.replace('["static"]', '["guest"]'), "a host plugin has stages"),
        (GOOD.replace('type = "integer"', 'type = "number of apples"'), "not a JSON Schema"),
        (GOOD + '\n[runtime]\nentry = "absent:run"\n', "absent.py is not in the folder"),
        (GOOD + "\n[runtime]\nnetwork = true\n", "runtime.network"),
    ],
)
def test_what_cannot_work_is_refused_at_load(tmp_path: Path, text: str, words: str) -> None:
    """A plugin that could never run is not found out about at its first task."""
    with pytest.raises(ManifestError, match=words):
        load_manifest(folder_with(tmp_path, text))


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    """The reason says what a plugin is."""
    with pytest.raises(ManifestError, match=r"missing; a plugin is a folder with plugin\.toml"):
        load_manifest(tmp_path)


def test_configuration_is_checked_and_completed_by_the_schema(tmp_path: Path) -> None:
    """Defaults apply, what was given wins, what is unknown or of the wrong type is refused."""
    manifest = load_manifest(folder_with(tmp_path, GOOD))
    assert manifest.effective_config({}) == {"limit": 3}
    assert manifest.effective_config({"limit": 7}) == {"limit": 7}
    with pytest.raises(ManifestError, match="limit"):
        manifest.effective_config({"limit": "many"})
    with pytest.raises(ManifestError, match="color"):
        manifest.effective_config({"color": 1})


def test_only_declared_results_may_be_emitted(tmp_path: Path) -> None:
    """Name and kind both have to be those of the manifest; a group admits names below it only."""
    manifest = load_manifest(folder_with(tmp_path, GOOD))
    assert manifest.declares("count", "json")
    assert manifest.declares("piece/1", "file")
    assert not manifest.declares("count", "file")
    assert not manifest.declares("piece", "file")
    assert not manifest.declares("other", "json")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in BUILTIN.glob("*/plugin.toml")))
def test_every_plugin_that_ships_has_a_good_manifest(name: str) -> None:
    """A plugin's folder bears the plugin's name."""
    assert load_manifest(BUILTIN / name).plugin.name == name
