"""Each capability rule finds its examples and leaves its near misses alone."""

import json
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk import Input, PluginSkipped
from malbox.sdk.rules import Fact, Matching, Rule
from malbox.sdk.testing import run_plugin
from services.plugins.builtin.capabilities import plugin
from services.plugins.builtin.capabilities.facts import Read, facts_of, plain
from services.plugins.builtin.capabilities.plugin import RULES, run
from services.plugins.builtin.pe.plugin import run as run_pe
from services.plugins.builtin.scripts.plugin import run as run_scripts
from services.plugins.builtin.strings.plugin import run as run_strings
from tests.unit.plugins import dotnet_files
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.pe_files import with_imports
from tests.unit.plugins.reading import read
from tests.unit.plugins.rule_examples import hits, misses

FORMATS = {"windows.toml": "pe", "dotnet.toml": "pe", "linux.toml": "elf", "macos.toml": "macho", "any.toml": ""}
PLATFORMS = {"pe": "windows", "elf": "linux", "macho": "macos", "": None}
INJECTION = ["VirtualAllocEx", "WriteProcessMemory", "CreateRemoteThread"]


def fact_of(line: str, kind_of_file: str) -> Fact:
    """`import NAME[@LIBRARY]`, `text WORDS`, and so on for each kind of fact."""
    kind, _, value = line.partition(" ")
    if kind == "import":
        name, _, library = value.partition("@")
        fields = {"name": name, "plain": plain(name), "library": library, "format": kind_of_file}
    elif kind in ("text", "layer"):
        fields = {"text": value, "format": kind_of_file}
    else:
        fields = {"name": value, "format": kind_of_file}
    return Fact(kind, fields, {})


def names_in(rule: Rule, example: Iterable[str]) -> set[str]:
    """The rules that find something in the example."""
    kind = FORMATS[rule.file]
    matching = Matching(RULES, PLATFORMS[kind])
    for line in example:
        matching.feed(fact_of(line, kind))
    return {match["rule"] for match in matching.result()["matches"]}


@pytest.mark.parametrize(("rule", "example"), hits(RULES.rules))
def test_the_rule_finds_its_example(rule: Rule, example: tuple[str, ...]) -> None:
    """What it is for."""
    assert rule.id in names_in(rule, example)


@pytest.mark.parametrize(("rule", "example"), misses(RULES.rules))
def test_the_rule_leaves_its_near_miss_alone(rule: Rule, example: tuple[str, ...]) -> None:
    """What only looks alike is not found."""
    assert rule.id not in names_in(rule, example)


def test_there_are_at_least_thirty_and_none_alone_makes_a_sample_malicious() -> None:
    """Bytes that could do something are not a program that did it."""
    assert len(RULES.rules) >= 30
    assert all(rule.techniques and rule.score < 70 for rule in RULES.rules)


def test_a_program_that_can_inject_is_found_by_its_imports(make_sample: MakeSample, tmp_path: Path) -> None:
    """Each piece of evidence leads to the function in the result of `pe`."""
    sample = make_sample(with_imports({"kernel32.dll": INJECTION}).build())
    said = read(sample, tmp_path, run_pe, run_strings)
    [match] = said["capabilities/capabilities"]["matches"]
    assert match["rule"] == "imports_process_injection"
    assert [one["pointer"] for one in match["evidence"]] == [f"/imports/0/functions/{number}" for number in range(3)]
    functions = said["pe/pe"]["imports"][0]["functions"]
    assert [functions[int(one["pointer"].rpartition("/")[2])] for one in match["evidence"]] == INJECTION


def test_words_in_a_program_are_found_with_their_offset(make_sample: MakeSample, tmp_path: Path) -> None:
    """The evidence leads to the byte of the sample."""
    words = b"vssadmin.exe delete shadows /all"
    content = with_imports({"kernel32.dll": ["ExitProcess"]}, overlay=b"\0" + words + b"\0").build()
    said = read(make_sample(content), tmp_path, run_pe, run_strings)
    [match] = said["capabilities/capabilities"]["matches"]
    assert match["rule"] == "windows_backups_removed"
    assert content[match["evidence"][0]["offset"] :].startswith(words)


def test_what_a_script_unfolds_to_is_found(make_sample: MakeSample, tmp_path: Path) -> None:
    """A layer that stands encoded in the bytes."""
    hidden = b64encode(b"python3 -c 'from PIL import ImageGrab;ImageGrab.grab()'")
    script = b"#!/bin/sh\necho " + hidden + b" | base64 -d | sh\n"
    said = read(make_sample(script), tmp_path, run_scripts, run_strings)
    assert "layer_keeps_the_screen" in {match["rule"] for match in said["capabilities/capabilities"]["matches"]}


def test_an_assembly_has_facts_of_its_own(make_sample: MakeSample, tmp_path: Path) -> None:
    """References and members of .NET."""
    program = dotnet_files.assembly("Quiet", references=["mscorlib"], types=["A.B"], members=["Load"], native=[])
    said = read(make_sample(program.build()), tmp_path, run_pe)
    kinds = {fact.kind for fact in facts_of(Read({"pe": said["pe/pe"], "dotnet": said["pe/dotnet"]}))}
    assert {"reference", "member"} <= kinds


@pytest.mark.promise("P30")
@pytest.mark.parametrize(
    ("document", "bounds"),
    [
        ({"imports": ["socket"], "is_truncated": True}, {}),
        ({"imports": ["socket"]}, {"INPUT_MAX_BYTES": 10}),
        ({"imports": ["socket", "connect"]}, {"FACTS_MAX": 1}),
    ],
)
def test_facts_that_are_left_out_are_said_to_be(
    document: Any, bounds: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever bound they were left out by, here or where they were read."""
    path = tmp_path / "elf"
    path.write_text(json.dumps(document), encoding="utf-8")
    given = (Input("elf", "elf", path, "application/json"),)
    assert run_plugin(run, path, scratch=tmp_path, inputs=given).json("capabilities")["is_truncated"] is (not bounds)
    for name, value in bounds.items():
        monkeypatch.setattr(plugin, name, value)
    content = run_plugin(run, path, scratch=tmp_path, inputs=(*given, *a_script(tmp_path))).json("capabilities")
    assert content["is_truncated"] is True


def a_script(folder: Path) -> tuple[Input, ...]:
    """Something is read of every sample: what `scripts` found here is nothing."""
    (folder / "scripts").write_text("{}", encoding="utf-8")
    return (Input("scripts", "scripts", folder / "scripts", "application/json"),)


def test_nothing_read_is_nothing_to_say(make_sample: MakeSample, tmp_path: Path) -> None:
    """Without a result of others the plugin skips."""
    with pytest.raises(PluginSkipped):
        run_plugin(run, make_sample(b"x"), scratch=tmp_path)


@pytest.mark.promise("P30")
@pytest.mark.parametrize(
    "document",
    [[], 3, None, {"imports": 5}, {"imports": [5, {"functions": {"a": 1}}]}, {"imports": ["x", 4], "exports": []}],
)
def test_a_result_of_another_form_is_passed_over(document: Any) -> None:
    """The other plugins read hostile bytes too: nothing that they could say makes this one raise."""
    documents = dict.fromkeys(("pe", "elf", "macho", "dotnet", "scripts"), document)
    assert all(fact.fields for fact in facts_of(Read(documents)))
