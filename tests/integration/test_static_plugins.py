"""Static plugins that ship, each in the real sandbox: what they need is there, and what they find comes out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from malbox.sdk.testing import SandboxedRun, run_sandboxed
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
