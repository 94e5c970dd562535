"""The structure of an ELF file, from a real one and from damaged ones."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lief
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malbox.sdk import PluginFailure, PluginSkipped, executables
from malbox.sdk.testing import run_plugin
from services.plugins.builtin.elf.linking import LOADER, import_hash
from services.plugins.builtin.elf.plugin import run
from tests.unit.plugins import containers, pe_files
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

TRUE = Path("/usr/bin/true")


def test_a_real_executable_is_described(tmp_path: Path) -> None:
    """Headers, sections, libraries and imports of a program that every Debian has."""
    said = run_plugin(run, TRUE, scratch=tmp_path).json("elf")
    assert said["libraries"] == ["libc.so.6"]
    assert "__libc_start_main" in said["imports"]
    assert ".text" in [section["name"] for section in said["sections"]]
    assert said["interpreter"]
    assert said["is_stripped"]
    assert len(said["build_id"]) == 40
    assert said["import_hash"] == import_hash(reversed(said["imports"]))
    assert all(0 <= section["entropy"] <= 8 for section in said["sections"])
    assert (said["overlay"], said["traits"], said["problems"]) == (None, [], [])


def test_what_only_begins_like_elf_fails_in_words(make_sample: MakeSample, tmp_path: Path) -> None:
    """The analyst reads that the file is corrupted."""
    with pytest.raises(PluginFailure, match="corrupted ELF"):
        run_plugin(run, make_sample(b"\x7fELF" + b"\xff" * 10), scratch=tmp_path)


def test_other_files_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """Not an error: there is nothing to do."""
    with pytest.raises(PluginSkipped):
        run_plugin(run, make_sample(b"#!/bin/sh\n"), scratch=tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(position=st.integers(4, 600), value=st.integers(0, 255))
def test_a_damaged_executable_is_described_or_refused(
    position: int, value: int, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Any byte of the headers changed: bounded output or a failure in words."""
    content = bytearray(TRUE.read_bytes())
    content[position] = value
    with contextlib.suppress(PluginFailure):
        said = run_plugin(run, make_sample(bytes(content)), scratch=tmp_path).json("elf")
        assert len(said["sections"]) <= 200 if "sections" in said else said["problems"]


def changed(change: Callable[[Any], None]) -> bytes:
    """A real program after LIEF changed it."""
    binary = lief.ELF.parse(TRUE.read_bytes())
    assert binary is not None
    change(binary)
    return bytes(binary.write_to_bytes())


def with_flags(kind: Any, flags: int) -> bytes:
    """A real program whose first segment of that type, and of code where it is loaded, has other rights."""
    content = bytearray(TRUE.read_bytes())
    headers = int.from_bytes(content[32:40], "little")  # e_phoff
    for at in range(headers, headers + 56 * int.from_bytes(content[56:58], "little"), 56):
        is_code = kind != lief.ELF.Segment.TYPE.LOAD or content[at + 4] & 1
        if int.from_bytes(content[at : at + 4], "little") == kind.value and is_code:
            content[at + 4] = flags
    return bytes(content)


def without_sections() -> bytes:
    """A real program whose table of sections is gone."""
    content = bytearray(TRUE.read_bytes())
    content[40:48] = bytes(8)  # e_shoff
    content[60:64] = bytes(4)  # e_shnum, e_shstrndx
    return bytes(content)


def entering_at(address: int) -> bytes:
    """A real program with another entry point."""
    content = bytearray(TRUE.read_bytes())
    content[24:32] = address.to_bytes(8, "little")
    return bytes(content)


def with_random_code() -> bytes:
    """A real program whose code was replaced."""
    content = bytearray(TRUE.read_bytes())
    binary = lief.ELF.parse(bytes(content))
    assert binary is not None
    code = next(one for one in binary.segments if one.type == lief.ELF.Segment.TYPE.LOAD and int(one.flags) & 1)
    begin, size = code.file_offset, code.physical_size
    content[begin : begin + size] = random.Random(1).randbytes(size)  # noqa: S311 - chosen to be repeated
    return bytes(content)


def test_a_number_that_no_list_knows_is_shown_as_it_is(make_sample: MakeSample, tmp_path: Path) -> None:
    """A forged machine or type of section costs nothing else."""
    content = bytearray(TRUE.read_bytes())
    content[18:20] = b"\x39\x30"  # e_machine
    content[int.from_bytes(content[40:48], "little") + 64 + 4] = 0x66  # sh_type of the first section that is one
    said = run_plugin(run, make_sample(bytes(content)), scratch=tmp_path).json("elf")
    assert (said["machine"], said["sections"][1]["type"], said["problems"]) == ("12345", "102", [])


REMARKABLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "the mark of UPX": ("packed", lambda: TRUE.read_bytes() + b"UPX!" + bytes(32)),
    "random code": ("packed", with_random_code),
    "code to write": ("writable_code", lambda: with_flags(lief.ELF.Segment.TYPE.LOAD, 7)),
    "a stack to run": ("executable_stack", lambda: with_flags(lief.ELF.Segment.TYPE.GNU_STACK, 7)),
    "no sections": ("section_headers_removed", without_sections),
    "an entry into nothing": ("entry_point_outside_code", lambda: entering_at(0x7FFFFFFF)),
    "a program appended": ("carries_a_program", lambda: TRUE.read_bytes() + TRUE.read_bytes()[:4096]),
    "a loader of its own": ("unusual_loader", lambda: changed(lambda it: setattr(it, "interpreter", "/tmp/ld.so"))),
    "a path to write to": (
        "loads_from_writable_places",
        lambda: changed(lambda it: it.add(lief.ELF.DynamicEntryRunPath("/tmp/x:$ORIGIN/lib"))),
    ),
    "a relative path": (
        "loads_from_writable_places",
        lambda: changed(lambda it: it.add(lief.ELF.DynamicEntryRpath("lib"))),
    ),
}


@pytest.mark.parametrize("name", REMARKABLE)
def test_what_is_remarkable_is_a_trait(name: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """Each for itself; the real program that it was made of has none."""
    trait, make = REMARKABLE[name]
    said = run_plugin(run, make_sample(make()), scratch=tmp_path).json("elf")
    assert {one["name"] for one in said["traits"]} == {trait}


def test_where_libraries_are_looked_for_is_listed(make_sample: MakeSample, tmp_path: Path) -> None:
    """The paths of both tags; beside the program itself is nothing to remark on."""
    content = changed(lambda it: it.add(lief.ELF.DynamicEntryRunPath("$ORIGIN/lib:/opt/app/lib")))
    said = run_plugin(run, make_sample(content), scratch=tmp_path).json("elf")
    assert (said["library_paths"], said["traits"]) == (["$ORIGIN/lib", "/opt/app/lib"], [])


@pytest.mark.parametrize(
    ("path", "is_usual"),
    [
        ("/lib64/ld-linux-x86-64.so.2", True),
        ("/lib/ld-musl-x86_64.so.1", True),
        ("/lib/ld.so.1", True),
        ("/lib/x86_64-linux-gnu/ld-2.31.so", True),
        ("/system/bin/linker64", True),
        ("/tmp/ld-linux-x86-64.so.2", False),
        ("/lib/evil", False),
        ("lib/ld.so", False),
    ],
)
def test_the_loaders_of_systems_are_known(path: str, is_usual: bool) -> None:  # noqa: FBT001 - a column of the table
    """GNU, musl, Android, and older ones."""
    assert bool(LOADER.fullmatch(path)) == is_usual


def test_a_blown_up_file_is_read_in_part(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not read is said."""
    content = TRUE.read_bytes()
    monkeypatch.setattr(executables, "READ_MAX_BYTES", len(content))
    said = run_plugin(run, make_sample(content + bytes(100_000)), scratch=tmp_path).json("elf")
    assert said["is_truncated"]
    assert said["overlay"]["size_bytes"] == 100_000


def test_a_program_that_is_cut_or_overwritten_is_described_or_refused(make_sample: MakeSample, tmp_path: Path) -> None:
    """Anywhere in the file: bounded output or a failure in words."""
    for damaged in mutations(TRUE.read_bytes(), 200, "elf"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            emitted = run_plugin(run, make_sample(damaged), scratch=tmp_path)
            assert len(emitted.content["elf"]) < 1_000_000


@pytest.mark.parametrize(
    ("inside", "suffix"),
    [
        (TRUE.read_bytes()[:4096], "elf"),
        (pe_files.Portable().build(), "exe"),
        (containers.zipped({"a": b"one"}), "zip"),
    ],
    ids=["ELF", "PE", "ZIP"],
)
def test_a_file_that_is_appended_comes_out(inside: bytes, suffix: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """Programs and archives, byte for byte; other bytes are no child."""
    emitted = run_plugin(run, make_sample(TRUE.read_bytes() + inside), scratch=tmp_path)
    [child] = emitted.json("elf")["children"]
    assert emitted.content[child["name"]] == inside
    assert child["path"] == f"overlay at {TRUE.stat().st_size:#x}.{suffix}"
    other = run_plugin(run, make_sample(TRUE.read_bytes() + b"data"), scratch=tmp_path)
    assert other.json("elf")["children"] == []
