"""The catalogue takes what is a plugin and keeps the reason for what is not."""

import os
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from contracts.envelope import Envelope
from contracts.plugins import PluginRegistered, PluginRejected
from services.chassis.clock import SystemClock
from services.plugins.adapters.folders import BUILTIN_DIR, read_catalogue
from services.plugins.adapters.versions import KeptVersions
from tests.unit.plugins.test_manifest import GOOD


def add(directory: Path, folder: str, text: str) -> None:
    (directory / folder).mkdir()
    (directory / folder / "plugin.toml").write_text(text, encoding="utf-8")
    (directory / folder / "plugin.py").write_text("def run(context): ...\n", encoding="utf-8")


def test_every_folder_that_ships_is_a_plugin() -> None:
    """Nothing that we ship is rejected."""
    catalogue = read_catalogue((BUILTIN_DIR,))
    assert catalogue.rejected == ()
    assert {"identity", "yara", "elf", "syscalls"} <= set(catalogue.plugins)


@pytest.mark.promise("D1")
def test_a_broken_folder_is_rejected_and_harms_no_other(tmp_path: Path) -> None:
    """The reason names the file; the good plugin beside it is there."""
    add(tmp_path, "good", GOOD)
    add(tmp_path, "broken", GOOD.replace('kind = "host"', 'kind = "ghost"'))
    add(tmp_path, "twin", GOOD)
    add(tmp_path, "needy", GOOD.replace('"counter"', '"needy"') + '\n[order]\nrequires = ["absent"]\n')
    catalogue = read_catalogue((tmp_path, tmp_path / "missing"))
    reasons = {rejected.folder: rejected.reason for rejected in catalogue.rejected}
    assert set(catalogue.plugins) == {"counter"}
    assert "plugin.kind" in reasons["broken"]
    assert "the name counter is taken" in reasons["twin"]
    assert "there is no plugin absent" in reasons["needy"]
    assert "correct plugin_dirs" in reasons["missing"]


def test_only_the_pinned_version_is_found(tmp_path: Path) -> None:
    """A plan never runs a version that it did not pin."""
    add(tmp_path, "good", GOOD)
    catalogue = read_catalogue((tmp_path,))
    assert catalogue.find("counter", "1.0.0") is not None
    assert catalogue.find("counter", "1.0.1") is None


def test_the_public_manifest_says_what_planning_needs() -> None:
    """Order, context, stages and schema travel; limits and paths do not."""
    public = read_catalogue((BUILTIN_DIR,)).plugins["syscalls"].public()
    assert (public.kind, public.stages, public.platforms) == ("guest", ("guest",), ("linux",))
    assert "trace_max_mib" in public.config_schema["properties"]


@pytest.mark.promise("A1")
def test_a_key_that_the_schema_does_not_name_is_refused_at_submission(tmp_path: Path) -> None:
    """What the other services check a configuration against refuses what the run would refuse."""
    add(tmp_path, "good", GOOD)
    public = read_catalogue((tmp_path,)).plugins["counter"].public()
    assert Draft202012Validator(public.config_schema).is_valid({"limit": 1})
    assert not Draft202012Validator(public.config_schema).is_valid({"limits": 1})


@pytest.mark.promise("D2", "D6")
def test_a_plugin_that_would_close_a_circle_is_rejected_and_the_others_stay(tmp_path: Path) -> None:
    """No folder of an operator's makes every request unplannable; the circle is named."""
    add(tmp_path, "a", GOOD.replace('"counter"', '"a"') + '\n[order]\nafter = ["b"]\n')
    add(tmp_path, "b", GOOD.replace('"counter"', '"b"') + '\n[order]\nafter = ["c"]\n')
    add(tmp_path, "c", GOOD.replace('"counter"', '"c"') + '\n[order]\nbefore = ["a"]\nafter = ["a"]\n')
    catalogue = read_catalogue((tmp_path,))
    assert set(catalogue.plugins) == {"a", "b"}
    [rejected] = catalogue.rejected
    assert rejected.folder == "c"
    assert "order: no order suits everybody: a waits for c waits for a" in rejected.reason


def test_whoever_needs_a_rejected_plugin_is_rejected_too(tmp_path: Path) -> None:
    """However far down the need is."""
    add(tmp_path, "a", GOOD.replace('"counter"', '"a"') + '\n[order]\nrequires = ["b"]\n')
    add(tmp_path, "b", GOOD.replace('"counter"', '"b"') + '\n[order]\nrequires = ["absent"]\n')
    catalogue = read_catalogue((tmp_path,))
    assert catalogue.plugins == {}
    assert [(entry.folder, entry.reason.rpartition(" ")[2]) for entry in catalogue.rejected] == [
        ("a", "b"),
        ("b", "absent"),
    ]


CONFIG = 'type = "object"'
STRANGE = {
    "a file's name that is no text": ("", b"\xff.py", "not UTF-8"),
    "arrays without end": (f"{CONFIG}\nx = {'[' * 3000}{']' * 3000}", b"", "nested too deeply"),
    "tables without end": (f"{CONFIG}\n{'x.' * 3000}y = 1", b"", "nested too deeply"),
    "schemas without end": (f"{CONFIG}\n{'properties.x.' * 1000}type = 'object'", b"", "nested too deeply"),
    "words that grow in JSON": (f"{CONFIG}\ndescription = '{chr(92) * 40_000}'", b"", "bytes of it are for others"),
}


@pytest.mark.promise("D6", "P37")
@pytest.mark.parametrize("strange", STRANGE)
def test_nothing_that_a_folder_can_hold_takes_the_catalogue_along(strange: str, tmp_path: Path) -> None:
    """It is rejected with its reason, the plugin beside it is there, and of both everybody can be told."""
    config, file, reason = STRANGE[strange]
    plugins, versions = tmp_path / "plugins", KeptVersions(tmp_path / "versions")
    plugins.mkdir()
    versions.sweep()
    add(plugins, "good", GOOD)
    add(plugins, "strange", GOOD.replace('"counter"', '"strange"').replace(CONFIG, config or CONFIG))
    if file:
        Path(os.fsdecode(os.fsencode(plugins / "strange") + b"/" + file)).touch()
    catalogue = read_catalogue((plugins,), versions.keep)
    assert set(catalogue.plugins) == {"counter"}
    [rejected] = catalogue.rejected
    assert rejected.folder == "strange"
    assert reason in rejected.reason
    for fact in (
        PluginRejected(folder=rejected.folder, reason=rejected.reason),
        *(PluginRegistered(manifest=plugin.public()) for plugin in catalogue.plugins.values()),
    ):
        assert Envelope.wrap(fact, message_id="msg", source="plugins", at=SystemClock().now()).to_json()


@pytest.mark.promise("D6")
def test_a_folder_whose_name_is_no_text_is_rejected_under_a_name_that_is(tmp_path: Path) -> None:
    """Whatever is in it."""
    add(tmp_path, "good", GOOD)
    (tmp_path / "good").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    catalogue = read_catalogue((tmp_path,))
    [rejected] = catalogue.rejected
    assert (catalogue.plugins, rejected.folder.isprintable(), "rename it" in rejected.reason) == ({}, True, True)
    assert PluginRejected(folder=rejected.folder, reason=rejected.reason).model_dump_json()
