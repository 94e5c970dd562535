"""What the plugins that ship really say is what the report reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk.testing import run_plugin
from services.plugins.builtin.behaviour.plugin import RULES, observed
from services.plugins.builtin.behaviour.strace import read_lines
from services.plugins.builtin.elf.plugin import describe
from services.plugins.builtin.identity.plugin import identify
from services.plugins.builtin.identity.plugin import run as run_identity
from services.plugins.builtin.pe.plugin import run as run_pe
from services.plugins.builtin.strings.plugin import run as run_strings
from services.plugins.builtin.yara.plugin import compile_rules, scan
from services.results.assembly import assemble
from services.results.domain.report import Report
from tests.unit.plugins.pe_files import with_imports
from tests.unit.plugins.reading import read
from tests.unit.results.cases import case

TRACE = Path(__file__).parents[1] / "guest" / "traces" / "python.strace"
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!" + b"$H+H*"


def analysed(sample: Path, **others: Any) -> Report:
    """The report over what `identity` and `yara` say of the file."""
    documents = {"identity": identify(sample, sample.name), "yara": scan(sample, compile_rules()), **others}
    return assemble(case({plugin: json.dumps(document).encode() for plugin, document in documents.items()}))


def test_eicar_is_malicious(tmp_path: Path) -> None:
    """The test file of the whole field is called malicious, with the rule as its reason."""
    sample = tmp_path / "harmless.com"
    sample.write_bytes(EICAR)
    report = analysed(sample)
    assert (report.verdict, report.errors) == ("malicious", ())
    assert report.reasons[0].evidence.plugin == "yara"
    assert {indicator.kind for indicator in report.indicators} == {"sha256", "sha1", "md5"}
    assert report.sample.mime
    assert report.sample.type


def test_an_ordinary_program_has_a_section_and_no_reason(tmp_path: Path) -> None:
    """The structure of an ELF file is shown, and nothing is held against it."""
    sample = Path(shutil.copy("/usr/bin/true", tmp_path / "true"))
    report = analysed(sample, elf=describe(sample))
    assert (report.reasons, report.errors) == ((), ())
    [section] = [section for section in report.sections if section.plugin == "elf"]
    titles = [block.title for block in section.blocks]
    assert titles[:1] == ["elf"]
    assert {"sections", "segments"} <= set(titles)
    assert report.sample.package == "elf"


def test_alike_samples_can_be_told_by_the_report(tmp_path: Path) -> None:
    """The digests of similarity stand with the sample."""
    sample = Path(shutil.copy("/usr/bin/true", tmp_path / "true"))
    said = run_plugin(run_identity, sample, scratch=tmp_path).json("identity")
    found = assemble(case({"identity": said})).sample
    assert (found.tlsh, found.ssdeep) == (said["tlsh"], said["ssdeep"])
    assert found.tlsh
    assert found.ssdeep


def test_a_program_that_can_inject_is_suspicious_by_what_it_imports(tmp_path: Path) -> None:
    """The reason names the plugin's own words; the host in its text is an indicator."""
    functions = ["VirtualAllocEx", "WriteProcessMemory", "CreateRemoteThread"]
    sample = tmp_path / "sample.exe"
    sample.write_bytes(with_imports({"kernel32.dll": functions}, overlay=b"\0http://c2.evil-host.com/gate\0").build())
    said = read(sample, tmp_path, run_pe, run_strings)
    report = assemble(case(said))
    assert (report.verdict, report.errors) == ("suspicious", ())
    [reason] = report.reasons
    assert (reason.name, reason.techniques, reason.points) == ("imports_process_injection", ("T1055",), report.score)
    for name, one in zip(functions, (reason.evidence, *reason.more_evidence), strict=True):
        fact = _at(said["capabilities/capabilities"], one.pointer)
        assert _at(said[f"{fact['plugin']}/{fact['result']}"], fact["pointer"]) == name
    assert ("domain", "c2.evil-host.com") in {(one.kind, one.value) for one in report.indicators}


def test_a_shell_script_without_a_run_is_unknown(tmp_path: Path) -> None:
    """Looking at harmless bytes says nothing of what they do."""
    sample = tmp_path / "hello.sh"
    sample.write_bytes(b"#!/bin/sh\necho hello\n")
    assert analysed(sample).verdict == "unknown"


def test_a_recorded_run_is_judged_by_what_it_did() -> None:
    """What the parser makes of a real trace is read whole, and every reason points to what it names."""
    with TRACE.open("rb") as trace:
        behaviour, signatures = observed(read_lines(trace), RULES)
    report = assemble(case({"behaviour": behaviour.result(), "behaviour/signatures": signatures}))
    assert (report.verdict, report.errors) == ("malicious", ())
    lines = TRACE.read_text(encoding="latin-1").splitlines()
    pointed = {
        reason.name: [
            lines[_at(signatures, one.pointer)["line"] - 1] for one in (reason.evidence, *reason.more_evidence)
        ]
        for reason in report.reasons
    }
    assert "/etc/ld.so.preload" in pointed["preload_hijack"][0]
    assert "htons(4444)" in pointed["unusual_port"][0]
    assert '["./copied"]' in pointed["runs_what_it_wrote"][1]
    assert [process.depth for process in report.processes] == [0, 1, 2, 2, 2, 3]
    assert {"asked for", "contacted"} <= {indicator.role for indicator in report.indicators}


def _at(document: Any, pointer: str) -> Any:
    """What a JSON pointer points to."""
    for part in pointer.split("/")[1:]:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


@pytest.mark.parametrize("plugin", ["identity", "yara"])
def test_what_a_plugin_says_is_read_whole(plugin: str, tmp_path: Path) -> None:
    """No fault is found in the output of our own plugins."""
    sample = tmp_path / "empty-ish"
    sample.write_bytes(b"\0")
    report = analysed(sample)
    assert [error for error in report.errors if error.plugin == plugin] == []
