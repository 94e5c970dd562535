"""What an RTF document embeds, fetches and hides."""

import contextlib
import struct
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.rtf import plugin
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

PLAIN = rb"{\rtf1\ansi{\fonttbl\f0 Arial;}\f0 hello {\b bold}\par {\field{\*\fldinst PAGE}{\fldrslt 1}}}"


def rtf(inside: bytes) -> bytes:
    return b"{\\rtf1\\ansi " + inside + b"}"


def ole1(name: str, content: bytes) -> bytes:
    """An OLE 1.0 object ([MS-OLEDS] 2.2.5)."""
    label = name.encode() + b"\0"
    empty = struct.pack("<I", 0)
    return struct.pack("<III", 0x501, 2, len(label)) + label + empty + empty + struct.pack("<I", len(content)) + content


def packed(name: str, path: str, content: bytes) -> bytes:
    """A file as the packager embeds it."""
    inside = struct.pack("<H", 2) + name.encode() + b"\0" + path.encode() + b"\0" + struct.pack("<II", 0x30000, 0)
    return ole1("Package", inside + path.encode() + b"\0" + struct.pack("<I", len(content)) + content)


def embedded(raw: bytes, more: bytes = b"") -> bytes:
    return rtf(b"{\\object\\objemb" + more + b"{\\*\\objdata " + raw.hex().encode() + b"}}")


def read(sample: Path, scratch: Path) -> Emitted:
    return run_plugin(plugin.run, sample, scratch=scratch)


def traits(said: Any) -> set[str]:
    return {one["name"] for one in said["traits"]}


def test_a_packed_file_comes_out(make_sample: MakeSample, tmp_path: Path) -> None:
    """With its name and where it was packed, for display; the bytes under a name of ours."""
    emitted = read(make_sample(embedded(packed("note.txt", "C:\\Users\\ann\\note.txt", b"hello"))), tmp_path)
    said = emitted.json("rtf")
    assert (said["objects"][0]["kind"], said["objects"][0]["name"]) == ("package", "note.txt")
    assert emitted.content["children/0001"] == b"hello"
    assert said["children"][0]["from"] == "package"
    assert {"kind": "path", "value": "C:\\Users\\ann\\note.txt"}.items() <= said["indicators"][0].items()
    assert traits(said) == set()


@pytest.mark.parametrize(
    ("content", "trait"),
    [
        (embedded(packed("a.exe", "C:\\a.exe", b"MZ")), "embedded_program"),
        (embedded(ole1("Equation.3", b"x" * 40)), "equation_object"),
        (embedded(ole1("x", b"y" * 40), b"\\objupdate"), "object_updates_itself"),
        (rtf(rb"{\*\template http://c2.example/a.dotm}"), "template_remote"),
        (rtf(rb"{\*\template \\\\192.0.2.1\\share\\a.dotm}"), "template_remote"),
        (rtf(rb"{\field{\*\fldinst DDEAUTO c:\\\\x cmd}{\fldrslt x}}"), "dde_field"),
        (rtf(rb"{\field{\*\fldinst {\b D}{\i DEAUTO} c:\\\\x cmd}{\fldrslt x}}"), "dde_field"),
        (b"{\\rt" + PLAIN[6:], "rtf_obfuscated"),
        (rtf(b"{\\object{\\*\\objdata 0105\\par0000\\abc 02}}"), "rtf_obfuscated"),
        (rtf(b"{\\object{\\*\\objdata 0105{\\x}0000}}"), "rtf_obfuscated"),
        (rtf(b"{\\object{\\*\\objdata 0105\\bin4 abcd}}"), "rtf_obfuscated"),
        (rtf(b"{\\object{\\*\\objdata 0105" + b" " * 300 + b"0000}}"), "rtf_obfuscated"),
        (rtf(b"\\" + b"a" * 40), "rtf_obfuscated"),
    ],
)
def test_what_a_document_would_do_is_a_trait(
    content: bytes, trait: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Each in a document that holds nothing else."""
    assert trait in traits(read(make_sample(content), tmp_path).json("rtf"))


@pytest.mark.parametrize("content", [PLAIN, rtf(rb"{\*\template Normal.dotm}"), embedded(ole1("Excel.Sheet.8", b"x"))])
def test_an_ordinary_document_has_no_trait(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Control of the traits."""
    said = read(make_sample(content), tmp_path).json("rtf")
    assert (said["traits"], said["problems"]) == ([], [])


def test_urls_in_objects_are_indicators(make_sample: MakeSample, tmp_path: Path) -> None:
    """In either width of characters."""
    wide = "http://wide.example/a\0".encode("utf-16-le")
    said = read(make_sample(embedded(ole1("x", b"http://c2.example/a\0 " + wide + b" "))), tmp_path).json("rtf")
    assert {"c2.example", "wide.example"} <= {one["value"] for one in said["indicators"]}


def test_other_files_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """Not an error: there is nothing to do."""
    with pytest.raises(PluginSkipped):
        read(make_sample(b"plain text"), tmp_path)


@pytest.mark.promise("P38")
def test_groups_without_end_are_read_in_bounded_time(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor time ends the reading, and what was found by then is told."""
    monkeypatch.setattr(plugin, "PROCESSOR_S", 2.0)  # the control words need half of one, all groups eight
    said = read(make_sample(rtf(rb"\objupdate " + b"{\\a" * 3_000_000)), tmp_path).json("rtf")
    assert any("processor time" in words for words in said["problems"])
    assert said["groups_max"] == plugin.DEPTH_MAX
    assert "object_updates_itself" in traits(said)


def test_a_damaged_document_is_a_failure_or_a_part_never_a_crash(make_sample: MakeSample, tmp_path: Path) -> None:
    """Cut and flipped in many places: bounded output, or a failure in words."""
    content = embedded(packed("a.exe", "C:\\a.exe", b"MZ" + b"x" * 100), b"\\objupdate")
    for damaged in mutations(content, 300, "rtf"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            assert len(read(make_sample(damaged), tmp_path).json("rtf")["objects"]) <= plugin.OBJECTS_MAX
