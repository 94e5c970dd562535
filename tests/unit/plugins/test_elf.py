"""The structure of an ELF file, from a real one and from damaged ones."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import run_plugin
from services.plugins.builtin.elf.plugin import run
from tests.unit.plugins.conftest import MakeSample

TRUE = Path("/usr/bin/true")


def test_a_real_executable_is_described(tmp_path: Path) -> None:
    """Headers, sections, libraries and imports of a program that every Debian has."""
    said = run_plugin(run, TRUE, scratch=tmp_path).json("elf")
    assert said["libraries"] == ["libc.so.6"]
    assert "__libc_start_main" in said["imports"]
    assert ".text" in [section["name"] for section in said["sections"]]
    assert said["interpreter"]
    assert said["is_stripped"]


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
        assert len(said["sections"]) <= 200
