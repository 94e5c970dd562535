"""What the plugins for documents, scripts and containers say is what the report judges, each point with its place."""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk.testing import run_plugin
from services.results.assembly import assemble
from services.results.domain.report import Report
from services.results.policy.document_traits import DOCUMENTS
from tests.unit.plugins import (
    containers,
    office_files,
    test_email,
    test_html,
    test_office,
    test_outlook,
    test_pdf,
    test_rtf,
    test_scripts,
    test_shortcuts,
)
from tests.unit.results.cases import case

SOURCES = (Path("services/plugins/builtin"), Path("malbox/sdk"))
ROOT = Path(__file__).parents[3]
SAMPLES: dict[str, tuple[str, Callable[[], bytes], set[str], set[str]]] = {
    "a macro that fetches a file": (
        "office",
        lambda: test_office.docm(office_files.MACRO),
        {"macro_auto_exec", "macro_runs_programs", "macro_downloads"},
        {"http://c2.example/a.txt", "c2.example"},
    ),
    "an object that updates itself": (
        "rtf",
        lambda: test_rtf.embedded(test_rtf.ole1("Equation.3", b"x" * 40), b"\\objupdate"),
        {"equation_object", "object_updates_itself"},
        set(),
    ),
    "a script on opening": ("pdf", lambda: test_pdf.OPENS, {"pdf_script_on_open"}, {"c2.example"}),
    "a bomb": ("archives", lambda: containers.many(12_000), {"archive_bomb"}, set()),
    "an encoded command": (
        "scripts",
        test_scripts.LAYERED["PowerShell, -EncodedCommand"][1].encode,
        {"script_encoded_command", "script_downloads", "script_hidden_window"},
        {"http://c2.example/a.ps1", "c2.example"},
    ),
    "a shortcut to a shell": (
        "shortcuts",
        lambda: test_shortcuts.shortcut(test_shortcuts.CMD, "/c calc" + " " * 40),
        {"lnk_runs_interpreter", "lnk_hidden_arguments"},
        {test_shortcuts.CMD},
    ),
    "a page that builds a file": ("html", lambda: test_html.SMUGGLED, {"html_smuggling"}, set()),
    "a program by mail": (
        "email",
        lambda: test_email.mail(("a.js", b"x")),
        {"mail_program_attached"},
        {"ann@a.example"},
    ),
    "a reminder that sounds from elsewhere": (
        "email",
        lambda: test_outlook.saved(test_outlook.RINGS, p8005=test_outlook.RING),
        {"mail_reaches_out"},
        {"file://c2.example/share/ring.wav", "c2.example"},
    ),
}
"""Name -> plugin, how its sample is made, the reasons and some of the indicators that the report has then."""


def said_by(plugin: str, content: bytes, folder: Path) -> Any:
    """The plugin's JSON result."""
    sample, scratch = folder / "sample", folder / "scratch"
    sample.write_bytes(content)
    scratch.mkdir()
    run = import_module(f"services.plugins.builtin.{plugin}.plugin").run
    return run_plugin(run, sample, scratch=scratch, sample_name="a.ps1").json(plugin)


def analysed(plugin: str, document: Any) -> Report:
    return assemble(case({plugin: json.dumps(document).encode()}))


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_found_in_the_bytes_is_judged_and_every_reason_points_to_it(name: str, tmp_path: Path) -> None:
    """Reasons, techniques with names, indicators; what a pointer points to has the name of the reason."""
    plugin, make, reasons, values = SAMPLES[name]
    document = said_by(plugin, make(), tmp_path)
    report = analysed(plugin, document)
    assert report.errors == ()
    assert reasons <= {reason.name for reason in report.reasons}
    for reason in report.reasons:
        pointed = document["traits"][int(reason.evidence.pointer.rpartition("/")[2])]
        assert (pointed["name"], bool(pointed["detail"])) == (reason.name, True)
    assert all(technique.name for technique in report.techniques)
    assert values <= {indicator.value for indicator in report.indicators}
    assert report.score > 0


def test_several_traits_make_a_document_suspicious(tmp_path: Path) -> None:
    """A macro that starts by itself, fetches and starts a program is more than any of them."""
    report = analysed("office", said_by("office", test_office.docm(office_files.MACRO), tmp_path))
    assert report.verdict in ("suspicious", "malicious")


def test_every_row_is_a_trait_that_a_plugin_names() -> None:
    """No row of the table waits for something that nobody says."""
    texts = [path.read_text(encoding="utf-8") for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"\"([a-z]+(?:_[a-z]+)+)\"", text)}
    assert {trait.name for trait in DOCUMENTS} <= named
