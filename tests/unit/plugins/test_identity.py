"""What a file is called and how it would be run, from its content."""

import hashlib
from pathlib import Path
from typing import Any

import ppdeep
import pytest
import tlsh
from hypothesis import given
from hypothesis import strategies as st

from malbox.sdk.testing import run_plugin
from services.intake.domain.kinds import KINDS
from services.plugins.builtin.identity import similarity
from services.plugins.builtin.identity.content import classify
from services.plugins.builtin.identity.plugin import run
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.office_files import compound

OUTLOOK = b"\x0b\x0d\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46"
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


@pytest.mark.parametrize(
    ("head", "name", "mime"),
    [
        (b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0", "x", "application/vnd.microsoft.portable-executable"),
        (b"\xcf\xfa\xed\xfe" + bytes(28), "x", "application/x-mach-binary"),
        (b"\xca\xfe\xba\xbe\0\0\0\x02" + bytes(40), "x", "application/x-mach-binary"),
        (b"%PDF-1.7\n\x80\x81\n", "x", "application/pdf"),
        (b"%PDF-1.7\n1 0 obj\n", "x", "application/pdf"),
        (b"{\\rtf1\\ansi}", "x.doc", "application/rtf"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "x.doc", "application/x-ole-storage"),
        (compound({"__properties_version1.0": bytes(32)}, OUTLOOK), "x.doc", "application/vnd.ms-outlook"),
        (compound({"ObjectPool/_1/__properties_version1.0": bytes(32)}), "x.doc", "application/x-ole-storage"),
        (b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46" + bytes(56), "x", "application/x-ms-shortcut"),
        (b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(24), "x", "application/x-7z-compressed"),
        (b"Rar!\x1a\x07\x01\0", "x", "application/vnd.rar"),
        (b"\x1f\x8b\x08\0\0\0\0\0\xff\xff", "x", "application/gzip"),
        (bytes(257) + b"ustar\x0000", "x", "application/x-tar"),
        (b"Write-Host 1\n", "x.ps1", "text/x-powershell"),
        (b"var a = 1;\n", "x.js", "text/javascript"),
        (b"x = 1\n", "x.vbs", "text/vbscript"),
        (b"@echo off\r\n", "x", "text/x-msdos-batch"),
        (b"<!DOCTYPE html><p>", "x", "text/html"),
        (b"<!DOCTYPE html><p>", "x.txt", "text/html"),
        (b"MIME-Version: 1.0\nSubject: a\n", "x", "message/rfc822"),
        (b"-----BEGIN CERTIFICATE-----\n", "x", "application/x-pem-file"),
    ],
)
def test_what_other_plugins_look_for_has_its_media_type_and_is_not_run_by_itself(
    head: bytes, name: str, mime: str
) -> None:
    """A plugin that applies by media type finds its files."""
    kind = classify(head, name)
    assert (kind.mime, kind.package) == (mime, "generic")


@pytest.mark.parametrize(
    ("part", "words"), [(b"word/document.xml", "Word"), (b"xl/workbook.xml", "Excel"), (b"ppt/slides", "PowerPoint")]
)
def test_an_office_document_is_told_from_its_parts(part: bytes, words: str) -> None:
    """Word, Excel and PowerPoint come in the same container."""
    head = b"PK\x03\x04" + bytes(22) + b"\x13\x00\x00\x00[Content_Types].xml" + b"PK\x03\x04" + bytes(26) + part
    assert classify(head, "x").description.startswith(words)


def test_a_java_class_is_no_universal_mach_o() -> None:
    """Both begin alike; a class has its version where the other counts its architectures."""
    assert "mach" not in classify(b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(40), "x").mime


@given(st.binary(max_size=400), st.text(max_size=40))
def test_no_bytes_confuse_the_classifier(head: bytes, name: str) -> None:
    """Every content has a kind; none raises."""
    assert "/" in classify(head, name).mime


def test_alike_files_have_alike_digests(make_sample: MakeSample, tmp_path: Path) -> None:
    """TLSH and ssdeep of a file and of the same with some bytes more are close; those of another file are not."""
    text = b"".join(b"line %d of a text that goes on\n" % number for number in range(2000))
    one = similar(make_sample(text), tmp_path)
    other = similar(make_sample(text + b"and a line more\n"), tmp_path)
    foreign = similar(make_sample(bytes(number * number % 251 for number in range(60_000))), tmp_path)
    assert tlsh.diff(one["tlsh"], other["tlsh"]) < 30 < tlsh.diff(one["tlsh"], foreign["tlsh"])
    assert ppdeep.compare(one["ssdeep"], other["ssdeep"]) > 80 > ppdeep.compare(one["ssdeep"], foreign["ssdeep"])


@pytest.mark.parametrize("content", [b"", b"short", bytes(4000)])
def test_what_is_too_short_or_too_uniform_has_no_tlsh(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """No digest is better than one that says nothing."""
    assert similar(make_sample(content), tmp_path)["tlsh"] is None


def test_a_file_over_the_limit_has_no_ssdeep(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin ends in seconds, whatever the size; one byte less has its digest."""
    monkeypatch.setattr(similarity, "SSDEEP_MAX_BYTES", 5000)
    assert similar(make_sample(b"ab" * 2500), tmp_path)["ssdeep"] is not None
    assert similar(make_sample(b"ab" * 2500 + b"a"), tmp_path)["ssdeep"] is None


def test_whoever_waits_for_the_kind_does_not_wait_for_digests(make_sample: MakeSample, tmp_path: Path) -> None:
    """The configuration leaves them out."""
    said = run_plugin(run, make_sample(b"a" * 100), scratch=tmp_path, config={"similarity": False}).json("identity")
    assert "ssdeep" not in said


def similar(sample: Path, scratch: Path) -> dict[str, Any]:
    """The identity of the file."""
    said: dict[str, Any] = run_plugin(run, sample, scratch=scratch).json("identity")
    return said


def test_identity_holds_hashes_and_size(make_sample: MakeSample, tmp_path: Path) -> None:
    """The three hashes are those of the whole file, however long."""
    content = b"#!/bin/sh\n" + b"a" * 3_000_000
    config = {"similarity": False}
    said = run_plugin(run, make_sample(content), scratch=tmp_path, config=config).json("identity")
    assert said["size_bytes"] == len(content)
    assert said["sha256"] == hashlib.sha256(content).hexdigest()
    assert said["sha1"] == hashlib.sha1(content, usedforsecurity=False).hexdigest()
    assert said["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert said["mime"] == "text/x-shellscript"


POWERSHELL = (
    "# gr\u00fc\u00dfe \u2014 \u043f\u0440\u0438\u0432\u0435\u0442\r\n$a = [Convert]::FromBase64String('QUJD')\r\n"
)
VBSCRIPT = '\' gr\u00fc\u00dfe aus K\u00f6ln\r\nSet x = CreateObject("WScript.Shell")\r\nx.Run "calc"\r\n'


@pytest.mark.parametrize(
    ("content", "name", "mime"),
    [
        (POWERSHELL.encode("utf-16"), "x.ps1", "text/x-powershell"),
        (b"\xfe\xff" + POWERSHELL.encode("utf-16-be"), "x.ps1", "text/x-powershell"),
        (POWERSHELL.encode("utf-16-le"), "x.ps1", "text/x-powershell"),
        (POWERSHELL.encode("utf-16-be"), "x.ps1", "text/x-powershell"),
        ((POWERSHELL * 500).encode("utf-16"), "x.ps1", "text/x-powershell"),
        (VBSCRIPT.encode("latin-1"), "x.vbs", "text/vbscript"),
        (VBSCRIPT.replace("K", "\u20ac").encode("cp1252"), "x.vbs", "text/vbscript"),
        ("@echo off\r\nrem \u00fc\r\n".encode("cp850"), "x", "text/x-msdos-batch"),
        ("@echo off\r\n".encode("utf-8-sig"), "x", "text/x-msdos-batch"),
        ("<html><p>\u00fc".encode("utf-16"), "x", "text/html"),
        (b"#@~^DgAAAA==", "x", "text/vbscript"),
        (b"#@~^DgAAAA==", "x.jse", "text/javascript"),
    ],
)
def test_a_script_is_known_in_the_encodings_of_windows(content: bytes, name: str, mime: str) -> None:
    """UTF-16 with and without a mark, both ways round, and code pages; found inside of a sample it is worth a task."""
    kind = classify(content, name)
    assert (kind.mime, kind.is_text, kind.package, mime in KINDS) == (mime, True, "generic", True)


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(128, 256)) * 10,
        b"\xff\xfe" + bytes(range(256)) * 8,
        bytes(number * number % 251 for number in range(4000)),
        b"".join(number.to_bytes(2, "little") for number in range(1, 4000)),
        b"\0" * 400,
        b"text\x01\xe9",
    ],
    ids=["upper half", "a mark before bytes", "mixed", "numbers of 16 bits", "zeros", "a control character"],
)
def test_other_bytes_are_no_text(content: bytes) -> None:
    """Control of the encodings."""
    assert not classify(content, "x.vbs").is_text


def test_a_script_that_linux_cannot_run_has_no_package_for_it() -> None:
    """The kernel looks for the first line in single bytes; a code page changes nothing about them."""
    script = "#!/bin/sh\necho gr\u00fc\u00dfe\n"
    assert classify(script.encode("utf-16"), "x").platform is None
    assert classify(script.encode("latin-1"), "x").package == "shell"
