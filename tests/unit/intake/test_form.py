"""Option fields are read strictly: every one is known and typed, or refused with what would be valid."""

import json  # its encoder writes NaN and lone surrogates, which a client might
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.submission import ChildrenChoice, PluginChoice
from services.intake.domain.form import FIELDS, OPTIONS, Asked, check_field_name, read_form
from services.intake.errors import Refusal


def refused(*fields: tuple[str, str]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_form(fields)
    return caught.value


@pytest.mark.promise("A2", "P21")
def test_every_option_is_read_into_its_type() -> None:
    """Nothing that is accepted is dropped on the way in."""
    asked = read_form(
        [
            ("package", "elf"),
            ("archive_entry", "a/b.exe"),
            ("password", "infected"),
            ("argument", "--fast"),
            ("argument", ""),
            ("plugin", "yara"),
            ("plugin", '{"name": "files", "config": {"depth": 3}}'),
            ("profile", "linux"),
            ("profile", "windows"),
            ("machine", "linux-1"),
            ("timeout", "60"),
            ("enforce_timeout", "yes"),
            ("route", "simulated"),
            ("priority", "9"),
            ("custom", "case 7"),
            ("tag", "apt"),
            ("tlp", "red"),
        ]
    )
    assert asked == Asked(
        package="elf",
        archive_entry="a/b.exe",
        password="infected",
        arguments=("--fast", ""),
        plugins=(PluginChoice(name="yara"), PluginChoice(name="files", config={"depth": 3})),
        profiles=("linux", "windows"),
        machine="linux-1",
        timeout_s=60,
        enforce_timeout=True,
        route="simulated",
        priority=9,
        custom="case 7",
        tags=("apt",),
        tlp="red",
    )


@pytest.mark.promise("A2")
@pytest.mark.parametrize("name", ["memory", "unique", "options", "module", "Package", "", "x" * 5000])
def test_an_unknown_field_is_refused_with_the_list_of_valid_ones(name: str) -> None:
    """A misspelt option is never silently ignored."""
    with pytest.raises(Refusal) as caught:
        check_field_name(name)
    assert caught.value.code == "unknown_field"
    assert caught.value.allowed == list(FIELDS)
    assert len(caught.value.detail) < 200


@pytest.mark.promise("A3")
@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ([("package", "rpm")], "invalid_choice", "/package"),
        ([("package", "elf"), ("package", "elf")], "too_many_values", "/package"),
        ([("timeout", "0")], "invalid_number", "/timeout"),
        ([("timeout", "3601")], "invalid_number", "/timeout"),
        ([("timeout", "-1")], "invalid_number", "/timeout"),
        ([("timeout", "٣")], "invalid_number", "/timeout"),
        ([("timeout", "9" * 5000)], "invalid_number", "/timeout"),
        ([("priority", "10")], "invalid_number", "/priority"),
        ([("enforce_timeout", "maybe")], "invalid_choice", "/enforce_timeout"),
        ([("route", "tor")], "invalid_choice", "/route"),
        ([("tlp", "white")], "invalid_choice", "/tlp"),
        ([("machine", "")], "invalid_value", "/machine"),
        ([("custom", "a\0b")], "invalid_value", "/custom"),
        ([("custom", "x" * 4097)], "value_too_long", "/custom"),
        ([("argument", "x" * 4097)], "value_too_long", "/argument/0"),
        ([("argument", "x")] * 65, "too_many_values", "/argument"),
        ([("profile", "linux"), ("profile", "linux")], "invalid_value", "/profile/1"),
        ([("plugin", "yara"), ("plugin", "yara")], "invalid_value", "/plugin/1"),
        ([("plugin", "YARA!")], "invalid_plugin", "/plugin/0"),
        ([("plugin", "{")], "invalid_json", "/plugin/0"),
        ([("plugin", '{"name": "a", "x": 1}')], "invalid_plugin", "/plugin/0"),
        ([("plugin", '{"name": "a", "config": {"x": "\\u0000"}}')], "invalid_json", "/plugin/0"),
        ([("plugin", '{"name": "a", "config": {"x": ' + "[" * 40 + "]" * 40 + "}}")], "invalid_json", "/plugin/0"),
        ([("plugin", '{"name": "a", "config": {"x": ' + "[" * 5000)], "invalid_json", "/plugin/0"),
    ],
)
def test_a_bad_value_is_refused_where_it_stands(fields: list[tuple[str, str]], code: str, pointer: str) -> None:
    """The refusal names the field, so that a program can point at it."""
    refusal = refused(*fields)
    assert (refusal.code, refusal.pointer) == (code, pointer)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def outcome(fields: list[tuple[str, str]]) -> Asked | Refusal:
    try:
        return read_form(fields)
    except Refusal as refusal:
        return refusal


@pytest.mark.promise("A3")
@given(st.lists(st.tuples(st.sampled_from(OPTIONS) | st.text(max_size=8), st.text(max_size=40)), max_size=12))
def test_any_fields_are_read_or_refused(fields: list[tuple[str, str]]) -> None:
    """There is no third outcome: no other exception leaves the reader."""
    result = outcome(fields)
    assert isinstance(result, Asked) or result.status == 422


@pytest.mark.promise("A3")
@given(JSON)
def test_any_plugin_json_is_read_or_refused(content: Any) -> None:
    """A configuration of any shape either becomes a choice that can be written, or is refused where it stands."""
    result = outcome([("plugin", json.dumps({"name": "yara", "config": content}))])
    if isinstance(result, Refusal):
        assert result.pointer == "/plugin/0"
    else:
        assert result.plugins is not None
        assert result.plugins[0].model_dump_json()


@pytest.mark.promise("P21")
@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("false", ChildrenChoice(depth=0)),
        ("true", None),
        ('{"depth": 2, "kinds": ["script"]}', ChildrenChoice(depth=2, kinds=("script",))),
    ],
)
def test_children_are_switched_off_or_narrowed(sent: str, read: ChildrenChoice | None) -> None:
    """In words, or in JSON."""
    assert read_form([("children", sent)]).children == read


@pytest.mark.parametrize("sent", ["maybe", '{"depth": 99}', '{"deep": 1}', '{"kinds": []}', '{"kinds": ["text"]}', "{"])
def test_a_choice_of_children_that_means_nothing_is_refused(sent: str) -> None:
    """With the place, and what there is."""
    with pytest.raises(Refusal) as refused:
        read_form([("children", sent)])
    assert (refused.value.pointer, bool(refused.value.allowed)) == ("/children", True)
