"""Static plugins that ship, each in the real sandbox: what they need is there, and what they find comes out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from malbox.sdk import Input
from malbox.sdk.testing import SandboxedRun, run_plugin, run_sandboxed
from services.plugins.builtin.pe.plugin import run as run_pe
from tests.unit.plugins import dotnet_files, macho_files, pe_files
from tests.unit.plugins.der import identity, signed_program

BUILTIN = Path(__file__).parents[2] / "services" / "plugins" / "builtin"
TEXT = b"one line of text and http://a.evil-host.com/x\n" * 40
SAMPLES: dict[str, tuple[Callable[[], bytes], Callable[[SandboxedRun], object]]] = {
    "certificates": (
        lambda: signed_program(pe_files.Portable().build(), identity("Nobody")),
        lambda run: run.json("certificates")["certificates"][0]["issued_here"] == "itself",
    ),
    "elf": (Path("/usr/bin/true").read_bytes, lambda run: run.json("elf")["build_id"]),
    "identity": (lambda: TEXT, lambda run: run.json("identity")["tlsh"] and run.json("identity")["ssdeep"]),
    "macho": (
        lambda: macho_files.MachO(identifier="com.example.quiet", entitlements={"a": True}).build(),
        lambda run: run.json("macho")["signatures"] and run.json("macho")["entitlements"],
    ),
    "pe": (
        lambda: signed_program(pe_files.with_imports({"KERNEL32.dll": ["ReadFile"]}).build(), identity("Nobody")),
        lambda run: run.json("pe")["hashes"]["imphash"] and run.json("pe")["signatures"][0]["is_valid"],
    ),
    "pe of .NET": (
        lambda: dotnet_files.assembly("Quiet", references=["a"], types=[], members=[], native=[]).build(),
        lambda run: run.json("dotnet")["references"],
    ),
    "strings": (lambda: TEXT, lambda run: run.json("strings")["indicators"] and run.content["list"]),
}


@pytest.mark.promise("P33")
@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_plugin_finds_in_the_sandbox_what_it_is_for(name: str, tmp_path: Path) -> None:
    """Its libraries and their data are reached there, its limits suffice, and its results are those of its manifest."""
    make, found = SAMPLES[name]
    tmp_path.chmod(0o755)
    sample = tmp_path / "sample"
    sample.write_bytes(make())
    run = run_sandboxed(BUILTIN / name.partition(" ")[0], sample)
    assert (run.outcome, run.reason) == ("completed", ""), run.log
    assert found(run)


@pytest.mark.promise("P33")
def test_what_others_found_is_judged_in_the_sandbox_too(tmp_path: Path) -> None:
    """The rules and what searches for them are reached there; the evidence leads into the other plugin's result."""
    tmp_path.chmod(0o755)
    sample, given = tmp_path / "sample", tmp_path / "pe"
    functions = ["VirtualAllocEx", "WriteProcessMemory", "CreateRemoteThread"]
    sample.write_bytes(pe_files.with_imports({"KERNEL32.dll": functions}).build())
    given.write_bytes(run_plugin(run_pe, sample, scratch=tmp_path).content["pe"])
    run = run_sandboxed(BUILTIN / "capabilities", sample, inputs=(Input("pe", "pe", given, "application/json"),))
    assert (run.outcome, run.reason) == ("completed", ""), run.log
    [match] = run.json("capabilities")["matches"]
    assert [one["pointer"] for one in match["evidence"]] == [f"/imports/0/functions/{number}" for number in range(3)]
