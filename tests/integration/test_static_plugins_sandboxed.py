"""The static plugins in the real sandbox, within the limits of their own manifests, on samples that the tests make."""

import gzip
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import orjson
import pytest

from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.ports import SandboxReport, SandboxRequest
from tests.unit.plugins import (
    containers,
    office_files,
    test_email,
    test_html,
    test_office,
    test_pdf,
    test_rtf,
    test_scripts,
    test_shortcuts,
)

pytestmark = pytest.mark.integration

BUILTIN = Path(__file__).parent.parent.parent / "services" / "plugins" / "builtin"
MIB = 1024 * 1024
TWO = {"a.txt": b"one", "b.txt": b"two"}


@pytest.fixture(name="bench")
def bench_fixture() -> Iterator[Path]:
    """Below /tmp and open to others: the sandbox's processes are nobody's."""
    root = Path(mkdtemp(prefix="malbox-static-"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


async def run_sandboxed(bench: Path, plugin: str, sample: bytes) -> SandboxReport:
    """The plugin that ships ran on the sample."""
    shutil.copytree(BUILTIN / plugin, bench / "plugin")
    (bench / "sample").write_bytes(sample)
    (bench / "spool").mkdir()
    manifest = load_manifest(bench / "plugin")
    return await BubblewrapRunner().run(
        SandboxRequest(
            manifest=manifest,
            plugin_dir=bench / "plugin",
            sample=bench / "sample",
            sample_name="sample",
            spool_dir=bench / "spool",
            config=manifest.effective_config({}),
        )
    )


SAMPLES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a ZIP": ("archives", lambda: containers.zipped(TWO), "children"),
    "a tar.gz": ("archives", lambda: containers.tarred(TWO, "w:gz"), "children"),
    "an encrypted 7z": ("archives", lambda: containers.seven_zipped(TWO, "infected"), "children"),
    "a Word document": ("office", lambda: test_office.docm(office_files.MACRO), "macros"),
    "an RTF document": ("rtf", lambda: test_rtf.embedded(test_rtf.packed("a.exe", "C:\\a.exe", b"MZ")), "children"),
    "a script": ("scripts", test_scripts.LAYERED["PowerShell, gzip"][1].encode, "layers"),
    "a PDF document": ("pdf", lambda: test_pdf.with_file("a.txt", b"hello"), "children"),
    "an encrypted PDF document": ("pdf", lambda: test_pdf.encrypted("infected"), "scripts"),
    "a shortcut": ("shortcuts", lambda: test_shortcuts.shortcut(test_shortcuts.CMD, "/c calc"), "traits"),
    "a page": ("html", lambda: test_html.SMUGGLED, "children"),
    "a message": ("email", lambda: test_email.mail(("a.js", b"x")), "children"),
}
"""Name -> plugin, how its sample is made, and a key of the result that is not empty then."""


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_plugin_reads_its_sample_in_the_sandbox(name: str, bench: Path) -> None:
    """Its libraries are found there, and what it says arrives."""
    plugin, make, key = SAMPLES[name]
    report = await run_sandboxed(bench, plugin, make())
    assert report.outcome == "completed", (report.reason, report.log)
    assert orjson.loads(report.results[0].path.read_bytes())[key]


@pytest.mark.promise("P38")
@pytest.mark.parametrize("make", [lambda: gzip.compress(bytes(400 * MIB)), lambda: containers.many(60_000)])
async def test_a_bomb_is_reported_within_the_manifests_limits(make: Callable[[], bytes], bench: Path) -> None:
    """Full budgets, real walls: the run completes and names the bound, it is not killed."""
    report = await run_sandboxed(bench, "archives", make())
    assert report.outcome == "completed", (report.reason, report.log)
    assert orjson.loads(report.results[0].path.read_bytes())["exceeded"]
