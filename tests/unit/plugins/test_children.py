"""Files found inside are handed out once, under names of ours, within bounds; names are judged."""

from pathlib import Path

import pytest

from malbox.sdk import Context, children
from malbox.sdk.children import Children
from malbox.sdk.cpu_budget import OutOfTime, cpu_budget
from malbox.sdk.file_names import is_program
from malbox.sdk.findings import Findings
from malbox.sdk.testing import run_plugin


def test_each_content_is_handed_out_once(tmp_path: Path) -> None:
    """Under a number, with its own name for display; nothing is left in the scratch directory."""
    found = Children(Findings())
    for path, content in (("a > ../../x", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"")):
        found.add(path, "test", content)

    def plugin(context: Context) -> None:
        found.emit(context)
        context.emit_json("said", found.as_json())

    emitted = run_plugin(plugin, tmp_path / "sample", scratch=tmp_path)
    assert [(one["name"], one["path"]) for one in emitted.json("said")] == [
        ("children/0001", "a > ../../x"),
        ("children/0002", "b"),
    ]
    assert (emitted.content["children/0001"], emitted.content["children/0002"]) == (b"one", b"two")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise("P38")
def test_time_that_ends_while_a_file_is_added_costs_that_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step it ends: what was told of and what is handed out are the same files."""
    found = Children(Findings())
    found.add("whole", "test", b"one")

    def out_of_time(_path: str) -> str:
        raise OutOfTime

    monkeypatch.setattr(children, "printable", out_of_time)
    with cpu_budget(60.0):
        found.add("cut off", "test", b"two")

    def plugin(context: Context) -> None:
        found.emit(context)
        context.emit_json("said", found.as_json())

    emitted = run_plugin(plugin, tmp_path / "sample", scratch=tmp_path)
    assert ([one["path"] for one in emitted.json("said")], emitted.content["children/0001"]) == (["whole"], b"one")


@pytest.mark.promise("P38")
def test_what_is_over_a_bound_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number, the size of one and the size of all are bounded, and the result says that there is more."""
    monkeypatch.setattr(children, "CHILD_MAX_BYTES", 10)
    monkeypatch.setattr(children, "TOTAL_MAX_BYTES", 15)
    findings = Findings()
    found = Children(findings)
    found.add("small", "test", b"x" * 9)
    assert not findings.as_json()["is_truncated"]
    found.add("large", "test", b"y" * 11)
    found.add("one too many", "test", b"z" * 9)
    assert [one["path"] for one in found.as_json()] == ["small"]
    found.as_json()
    assert findings.as_json()["is_truncated"]
    assert findings.as_json()["problems"] == [
        "files found inside that are not handed out, for there are more than 10 bytes in one: 1",
        "files found inside that are not handed out, for there are more than 15 bytes in all: 1",
    ]


@pytest.mark.parametrize(
    ("name", "content", "is_one"),
    [
        ("a.exe", b"", True),
        ("a.JS", b"", True),
        ("a.exe. ", b"", True),
        ("x", b"MZ\x90", True),
        ("x", b"#!/bin/sh", True),
        ("a.docx", b"PK", False),
        ("exe", b"hello", False),
    ],
)
def test_a_program_is_known_by_its_name_or_its_beginning(name: str, content: bytes, is_one: bool) -> None:  # noqa: FBT001
    """Whatever a double click would run."""
    assert is_program(name, content) == is_one
