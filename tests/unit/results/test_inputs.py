"""Plugin output is data to be checked: whatever the bytes are, reading them ends in a model or in `Unreadable`."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.results.domain.bounds import ARGV_MAX, INPUT_MAX_BYTES, TEXT_MAX_CHARS
from services.results.domain.inputs import Behaviour, Findings, Identity, Input, Matches, Unreadable, read

pytestmark = pytest.mark.promise("P35")
MODELS: tuple[type[Input], ...] = (Identity, Matches, Behaviour, Findings)
words = st.sampled_from(
    ["processes", "timeline", "files", "network", "matches", "traits", "indicators", "name", "value", "kind", "pid",
     "ppid", "argv", "path", "actions", "rule", "event"]
)  # fmt: skip
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(), inner, max_size=4),
    max_leaves=20,
)


def outcome(model: type[Input], content: bytes) -> Input | Unreadable:
    """The result, or why there is none."""
    try:
        return read(model, content)
    except Unreadable as error:
        return error


@given(st.binary(max_size=400) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_result_or_unreadable(content: bytes) -> None:
    """No input makes reading fail in any other way."""
    for model in MODELS:
        assert isinstance(outcome(model, content), model | Unreadable)


def test_a_deep_document_is_unreadable() -> None:
    """Nesting that would exhaust the stack is refused."""
    for content in (b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800' + b"[" * 100_000):
        with pytest.raises(Unreadable):
            read(Behaviour, content)


def test_a_document_over_the_limit_is_unreadable() -> None:
    """The bound holds before anything is parsed."""
    with pytest.raises(Unreadable, match="at most"):
        read(Matches, b" " * (INPUT_MAX_BYTES + 1))


def test_a_file_name_that_is_not_unicode_does_not_hide_the_other_evidence() -> None:
    """Half characters are replaced, the rest is read."""
    behaviour = read(Behaviour, b'{"files":[{"path":"/tmp/\\udcff","actions":["written"]},{"path":"/etc/cron.d/x"}]}')
    assert [file.path for file in behaviour.files] == ["/tmp/?", "/etc/cron.d/x"]


def test_long_text_is_cut_and_marked() -> None:
    """A megabyte of path stays a line."""
    behaviour = read(Behaviour, json.dumps({"files": [{"path": "a" * 1_000_000}]}).encode())
    assert len(behaviour.files[0].path) == TEXT_MAX_CHARS
    assert behaviour.files[0].path.endswith("…")


def test_a_long_list_of_words_is_cut_and_its_end_says_how_many_more_there_were() -> None:
    """Such as a command line; one that is as long as it may be, the control, stays as it is."""
    for count, last in ((ARGV_MAX, str(ARGV_MAX - 1)), (ARGV_MAX + 9, "… 10 more")):
        argv = [str(number) for number in range(count)]
        [process] = read(Behaviour, json.dumps({"processes": [{"pid": 1, "argv": argv}]}).encode()).processes
        assert (len(process.argv), process.argv[-1]) == (ARGV_MAX, last)


def test_a_refusal_names_the_place_and_none_of_the_content() -> None:
    """What a sample wrote does not reach the error text."""
    with pytest.raises(Unreadable, match="/processes/0/pid") as caught:
        read(Behaviour, b'{"processes":[{"pid":"FORGED TEXT"}]}')
    assert "FORGED" not in str(caught.value)
