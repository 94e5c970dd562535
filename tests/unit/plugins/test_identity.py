"""What a file is called and how it would be run, from its content."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malbox.sdk.testing import run_plugin
from services.plugins.builtin.identity.content import classify
from services.plugins.builtin.identity.plugin import run
from tests.unit.plugins.conftest import MakeSample

ELF_START = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00" + bytes(40)


@pytest.mark.parametrize(
    ("head", "name", "package", "platform"),
    [
        (ELF_START, "x", "elf", "linux"),
        (b"\x7fELF", "cut-short", "elf", "linux"),
        (b"#!/bin/sh\necho hi\n", "x", "shell", "linux"),
        (b"#! /usr/bin/env bash\n", "x.txt", "shell", "linux"),
        (b"echo hi\n", "run.sh", "shell", "linux"),
        (b"#!/usr/bin/env python3\n", "x", "python", None),
        (b"import os\nos.getpid()\n", "x", "python", None),
        (b"x = 1\n", "x.py", "python", None),
        (b"#!/usr/bin/perl\n", "x", "generic", "linux"),
        (b"plain words\n", "notes", "generic", None),
        (b"PK\x03\x04" + bytes(22) + b"\x05\x00\x00\x00a.bin", "x.zip", "archive", None),
        (b"PK\x03\x04" + bytes(22) + b"\x13\x00\x00\x00[Content_Types].xml", "x.docx", "generic", None),
        (b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0", "x.exe", "generic", "windows"),
        (b"%PDF-1.7\n\x80\x81\n", "x", "generic", None),
        (b"", "x", "generic", None),
    ],
)
def test_the_content_decides_how_a_file_is_run(head: bytes, name: str, package: str, platform: str | None) -> None:
    """The name only breaks ties between kinds of text."""
    kind = classify(head, name)
    assert (kind.package, kind.platform) == (package, platform)


@given(st.binary(max_size=400), st.text(max_size=40))
def test_no_bytes_confuse_the_classifier(head: bytes, name: str) -> None:
    """Every content has a kind; none raises."""
    assert "/" in classify(head, name).mime


def test_identity_holds_hashes_and_size(make_sample: MakeSample, tmp_path: Path) -> None:
    """The three hashes are those of the whole file, however long."""
    content = b"#!/bin/sh\n" + b"a" * 3_000_000
    said = run_plugin(run, make_sample(content), scratch=tmp_path).json("identity")
    assert said["size_bytes"] == len(content)
    assert said["sha256"] == hashlib.sha256(content).hexdigest()
    assert said["sha1"] == hashlib.sha1(content, usedforsecurity=False).hexdigest()
    assert said["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert said["mime"] == "text/x-shellscript"
