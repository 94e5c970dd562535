"""The manifest is strict, and says what to change where."""

import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from malbox.sdk.manifest import Events, ManifestError, load_manifest, manifest_schema

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

FILTERED = (
    GOOD
    + """
[events]
subscribe = ["PluginFinished"]
[events.filters.PluginFinished]
{field} = {value}
"""
)


GUEST = GOOD.replace('"host"', '"guest"').replace('["static"]', '["guest"]')


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
        ('stages = ["static"]', 'stages = ["static", "guest"]', 8, "applies.stages"),
        ('stages = ["static"]', 'stages = ["static"]\nmime = ["pdf"]', 9, "applies.mime.0"),
        ("[applies]", "[runtime]\nkeepalive = true\n[applies]", 8, "runtime.keepalive"),
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
        (GOOD + "\n[runtime]\nlifecycle = 'scoped'\n", r"says what shares it: add \[scope\] key"),
        (GOOD + "\n[scope]\nkey = 'task'\n", "scope: only a scoped plugin has a scope"),
        (GOOD + "\n[runtime]\nlifecycle = 'scoped'\n[scope]\nkey = 'moon'\n", "scope.key"),
        (GOOD + "\n[runtime]\ntimeout = 3\n", r"runtime.timeout: unknown key; did you mean timeout_s\?"),
        (GOOD + "\n[events]\nsubscribe = ['SampleStart']\n", "no fact 'SampleStart'; did you mean SampleStarted"),
        (GOOD + "\n[events]\nsubscribe = ['TaskCompleted']\n", "TaskCompleted is not about the stages of a task"),
        (GOOD + "\n[events]\nsubscribe = ['LeaseBeat']\n", "LeaseBeat is not about the stages of a task"),
        (GOOD.replace('"Count"', r'"Count\n"'), r"plugin.toml:18: results.count.title: .*one line of printable"),
        (GOOD.replace('"Count"', '" "'), "results.count.title: .*one line of printable"),
        (GOOD.replace('"Count"', f'"{"x" * 201}"'), "results.count.title: .*at most 200 characters"),
        (GOOD.replace('"counter"', '"agent"'), "what Malbox itself is called among results"),
        (GUEST + "\n[runtime]\ntimeout_s = 21\n", "each call of a guest plugin takes at most 20 s"),
        (GUEST + "\n[runtime]\ntimeout_s = 9\nmemory_mib = 513\n", "memory_mib: a guest plugin has at most 512"),
        (GUEST + "\n[runtime]\ntimeout_s = 9\nscratch_mib = 257\n", "scratch_mib: a guest plugin has at most 256"),
        (GUEST + "\n[runtime]\ntimeout_s = 9\nentry = 'plugin:Absent'\n", r"define class Absent\(GuestPlugin\)"),
        (GUEST + "\n[runtime]\ntimeout_s = 9\nkeepalive = true\n", "only a part of the agent can keep"),
        (GUEST + "\n[runtime]\ntimeout_s = 9\ncontext = 'exclusive'\n", "all guest plugins watch the same run"),
        (GUEST + "\n[runtime]\ntimeout_s = 9\nlifecycle = 'persistent'\n", "lives as long as its task's guest"),
        (GUEST + "\n[runtime]\ntimeout_s = 9\ncapabilities = ['sys-admin']\n", "runtime.capabilities.0"),
        (GUEST + "\n[runtime]\nentry = 'agent:syscalls'\n", "that part of the agent has another name"),
        (
            GUEST + "\n[runtime]\nentry='agent:counter'\n[events]\nsubscribe=['GuestLost']\n",
            "part of the agent is not told",
        ),
        (GOOD + "\n[runtime]\ncapabilities = ['read-files']\n", "a host plugin is nobody and stays it"),
        (GOOD + "\n[events.filters.TaskCompleted]\ntask_id = 'x'\n", "not subscribed to"),
        (FILTERED.format(field="plugins", value="'yara'"), r"no field 'plugins'; did you mean plugin"),
        (FILTERED.format(field="outcome", value="'great'"), "'great' is no outcome of PluginFinished"),
        (FILTERED.format(field="duration_ms", value="'long'"), "'long' is no duration_ms of PluginFinished"),
    ],
)
def test_what_cannot_work_is_refused_at_load(tmp_path: Path, text: str, words: str) -> None:
    """A plugin that could never run is not found out about at its first task."""
    with pytest.raises(ManifestError, match=words):
        load_manifest(folder_with(tmp_path, text))


def test_a_good_guest_plugin_is_read(tmp_path: Path) -> None:
    """Positive control of the refusals of guest plugins: a class for an entry, a capability, and facts to be told."""
    text = (
        GUEST + "\n[runtime]\ntimeout_s = 20\ncapabilities = ['read-files']\n[events]\nsubscribe = ['SampleStarted']\n"
    )
    manifest = load_manifest(folder_with(tmp_path, text))
    assert manifest.is_bundled
    assert manifest.runtime.capabilities == ("read-files",)


@pytest.mark.promise("D4")
def test_a_subscription_with_filters_is_read(tmp_path: Path) -> None:
    """Positive control of the refusals above."""
    text = FILTERED.format(field="outcome", value="['failed', 'crashed']")
    assert load_manifest(folder_with(tmp_path, text)).events.subscribe == ("PluginFinished",)


@pytest.mark.promise("D4")
def test_a_subscription_tells_the_facts_that_fit_its_filters() -> None:
    """One value or a list of them for each field, all fields together; without a filter every fact of the name."""
    filters = {"PluginFinished": {"plugin": "yara", "outcome": ("failed", "crashed")}}
    events = Events.model_validate({"subscribe": ["PluginFinished", "SampleStarted"], "filters": filters})
    assert events.wants("PluginFinished", {"plugin": "yara", "outcome": "crashed"})
    assert not events.wants("PluginFinished", {"plugin": "yara", "outcome": "completed"})
    assert not events.wants("PluginFinished", {"plugin": "elf", "outcome": "crashed"})
    assert events.wants("SampleStarted", {"pid": 1})
    assert not events.wants("SampleExited", {})


def test_every_fault_of_a_manifest_is_named_at_once(tmp_path: Path) -> None:
    """Nobody mends one key to be told of the next."""
    text = GOOD.replace('version = "1.0.0"', 'version = "one"').replace('kind = "json"', 'kind = "xml"')
    with pytest.raises(ManifestError, match=r"plugin\.version.*; .*results\.count\.kind"):
        load_manifest(folder_with(tmp_path, text))


def test_media_types_are_matched_by_patterns(tmp_path: Path) -> None:
    """`*` stands for anything, case does not matter, and no pattern at all is any content."""
    text = GOOD.replace('stages = ["static"]', 'stages = ["static"]\nmime = ["application/pdf", "image/*"]')
    applies = load_manifest(folder_with(tmp_path, text)).applies
    assert applies.takes("application/PDF")
    assert applies.takes("image/png")
    assert not applies.takes("text/plain")
    assert load_manifest(folder_with(tmp_path, GOOD)).applies.takes("text/plain")


def test_the_published_schema_accepts_what_loads_and_refuses_what_does_not() -> None:
    """An editor that has the schema says what `malbox plugin validate` would."""
    schema = manifest_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid(tomllib.loads(GOOD))
    assert not validator.is_valid(tomllib.loads(GOOD.replace("[applies]", "[applied]")))
    assert not validator.is_valid(tomllib.loads(GOOD.replace('"host"', '"hosts"')))


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


def test_a_result_has_the_title_of_its_declaration(tmp_path: Path) -> None:
    """Each of many has the one of all; what is not declared has none."""
    manifest = load_manifest(folder_with(tmp_path, GOOD))
    titles = [manifest.title_of(name) for name in ("count", "piece/1", "piece", "other")]
    assert titles == ["Count", "Pieces", "", ""]


SHAPED = GOOD.replace('title = "Count"\n', 'title = "Count"\nschema = {shape}\n')


def test_json_is_checked_against_the_schema_of_its_result(tmp_path: Path) -> None:
    """What fits is taken, what does not is named by the place in the schema; without a schema, nothing is."""
    shape = '{ type = "object", properties = { pattern = { type = "integer" } }, required = ["pattern"] }'
    manifest = load_manifest(folder_with(tmp_path, SHAPED.replace("{shape}", shape)))
    assert manifest.fault_of("count", b'{"pattern": 1}') is None
    assert manifest.fault_of("count", b'{"pattern": "1"}') == (
        "result count breaks its schema at properties/pattern/type"
    )
    assert manifest.fault_of("count", b"{}") == "result count breaks its schema at required"
    assert "over the limit of 1048576 bytes" in (manifest.fault_of("count", b'{"pattern": 1}' + b" " * 1048576) or "")
    long = manifest.fault_of("count", b'{"pattern": 1}' + b" " * 16384, is_record=True)
    assert long == "record count is over the limit of 16384 bytes of a record with a schema"
    assert load_manifest(folder_with(tmp_path, GOOD)).fault_of("count", b"{}") is None


def test_a_result_of_any_depth_is_checked(tmp_path: Path) -> None:
    """What a sample nests too deeply is a fault like others."""
    manifest = load_manifest(folder_with(tmp_path, SHAPED.replace("{shape}", '{ type = "object" }')))
    fault = manifest.fault_of("count", b"[" * 1000 + b"]" * 1000)
    assert fault == "result count is nested too deeply to be checked by its schema"


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ('{ type = "number_" }', "not a JSON Schema"),
        ('{ items = { properties = { a = { pattern = "(a+)+" } } } }', "pattern: not among the keywords"),
        ('{ anyOf = [{ "$ref" = "#" }, { uniqueItems = true }] }', r"\$ref, uniqueItems: not among"),
        (
            '{ oneOf = [{ properties = { a = { items = { type = "null" } } } }] }',
            "items inside anyOf or oneOf: not among",
        ),
    ],
)
def test_a_schema_that_no_result_may_be_checked_by_is_refused(tmp_path: Path, shape: str, fault: str) -> None:
    """Refused where it stands: what is no schema, and keywords by which a result could hold up the host."""
    with pytest.raises(ManifestError, match=rf"plugin.toml:\d+: results.count.schema: .*{fault}"):
        load_manifest(folder_with(tmp_path, SHAPED.replace("{shape}", shape)))


def test_only_json_has_a_schema(tmp_path: Path) -> None:
    """Files are bytes to the host."""
    text = GOOD.replace('title = "Pieces"', 'title = "Pieces"\nschema = { type = "object" }')
    with pytest.raises(ManifestError, match="only a result of kind"):
        load_manifest(folder_with(tmp_path, text))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in BUILTIN.glob("*/plugin.toml")))
def test_every_plugin_that_ships_has_a_good_manifest(name: str) -> None:
    """A plugin's folder bears the plugin's name."""
    assert load_manifest(BUILTIN / name).plugin.name == name


CONFIG = '[config]\ntype = "object"\n'


@pytest.mark.promise("A1", "D6")
@pytest.mark.parametrize("reference", ["#/$defs/nowhere", "http://192.0.2.1/schema", "other.json", "#nowhere"])
def test_a_schema_that_leads_out_of_itself_is_refused_and_nothing_is_fetched(reference: str, tmp_path: Path) -> None:
    """At load: otherwise every task that it is planned for would meet it. A reference inside is followed."""
    inside = GOOD.replace(CONFIG, f"{CONFIG}[config.properties.other]\n'$ref' = '#/$defs/there'\ndefault = 1\n"
                          "[config.'$defs'.there]\ntype = 'integer'\n")  # fmt: skip
    assert load_manifest(folder_with(tmp_path, inside)).effective_config({}) == {"limit": 3, "other": 1}
    with pytest.raises(ManifestError, match=r"config: \$ref '.*' leads nowhere in it, and nothing is fetched"):
        load_manifest(folder_with(tmp_path, inside.replace("#/$defs/there", reference)))


@pytest.mark.promise("P37")
def test_a_schema_that_never_ends_costs_the_run_that_meets_it(tmp_path: Path) -> None:
    """A circle is a fault of the configuration, not of the service."""
    circle = GOOD.replace(CONFIG, f"{CONFIG}'$ref' = '#'\n")
    with pytest.raises(ManifestError, match="its schema leads nowhere"):
        load_manifest(folder_with(tmp_path, circle)).effective_config({})
