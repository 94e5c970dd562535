"""What the sandbox costs: a persistent plugin in it against the same function called in this process, file by file.

Both do the whole of it: from the sample's path to each result in a file of its own.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from malbox.sdk.context import PluginFunction
from malbox.sdk.manifest import load_manifest
from malbox.sdk.runner import PACKAGE, load_plugin
from malbox.sdk.testing import run_plugin
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.folders import BUILTIN_DIR
from services.plugins.ports import Sandbox, SandboxRequest
from tests.bench.measure import Reference, Row, medians

REFERENCE = Reference("-", "<= 1.3x")
PLUGINS = ("identity", "elf", "strings", "yara")
SAMPLES = 24
SAMPLE_MIN_BYTES, SAMPLE_MAX_BYTES = 64 * 1024, 4 * 1024 * 1024


async def sandboxed(runs: int) -> list[Row]:
    """Times of the bare call, of each plugin: over a set of programs of this host, in turn bare and sandboxed."""
    programs = list(_programs())
    samples = programs[:: max(1, len(programs) // SAMPLES)][:SAMPLES]  # evenly over all sizes
    return [await _compared(name, samples, runs) for name in PLUGINS]


async def _compared(name: str, samples: list[Path], runs: int) -> Row:
    folder = BUILTIN_DIR / name
    manifest = load_manifest(folder)
    for known in [module for module in sys.modules if module.startswith(PACKAGE)]:
        del sys.modules[known]  # a process has one plugin; this one has several in turn
    function = load_plugin(folder, manifest.runtime.entry)
    began = time.perf_counter()
    sandbox = await BubblewrapRunner().start(manifest, folder)
    start_ms = (time.perf_counter() - began) * 1000
    ratios, parts = [], []
    try:
        await _once(sandbox, function, folder, samples[0])  # both have met a sample before it counts
        for _ in range(runs):
            pairs = [await _once(sandbox, function, folder, sample) for sample in samples]
            bare_s, within_s = (sum(side) for side in zip(*pairs, strict=True))
            ratios.append(within_s / bare_s)
            parts.append({"bare, ms a file": bare_s / len(samples) * 1000, "more, ms a file": _more_ms(pairs)})
    finally:
        await sandbox.close()
    shown = medians(parts)
    return Row(
        name=f"sandboxed {name} against the bare call",
        what_ran=f"{len(samples)} programs of this host, {SAMPLE_MIN_BYTES // 1024} KiB to "
        f"{SAMPLE_MAX_BYTES // 1024**2} MiB, {_mean_bytes(samples) // 1024} KiB on average, each once by the plugin's "
        "function in this process and once in a persistent sandbox, both with their results spooled",
        unit="x",
        values=tuple(ratios),
        reference=REFERENCE,
        notes=(*(f"{what}: {value:.2f}" for what, value in shown.items()), f"a start takes {start_ms:.0f} ms, once"),
    )


async def _once(sandbox: Sandbox, function: PluginFunction, folder: Path, sample: Path) -> tuple[float, float]:
    """Seconds of the bare call, and of the run in the sandbox."""
    with TemporaryDirectory() as scratch, TemporaryDirectory() as kept, TemporaryDirectory() as spool:
        bare_s = _took(lambda: _bare(function, sample, Path(scratch), Path(kept)))
        request = SandboxRequest(load_manifest(folder), folder, sample, "sample", Path(spool))
        began = time.perf_counter()
        report = await sandbox.run(request)
        within_s = time.perf_counter() - began
    if report.outcome != "completed":
        raise OSError(f"{folder.name} on {sample}: {report.outcome}: {report.reason}")
    return bare_s, within_s


def _bare(function: PluginFunction, sample: Path, scratch: Path, kept: Path) -> None:
    emitted = run_plugin(function, sample, scratch=scratch)
    for number, content in enumerate(emitted.content.values()):
        (kept / f"{number:04d}").write_bytes(content)


def _took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _more_ms(pairs: list[tuple[float, float]]) -> float:
    """The middle of what the sandbox adds, file by file."""
    added = sorted(within_s - bare_s for bare_s, within_s in pairs)
    return added[len(added) // 2] * 1000


def _mean_bytes(samples: list[Path]) -> int:
    return sum(sample.stat().st_size for sample in samples) // len(samples)


def _programs() -> Iterator[Path]:
    for path in sorted(Path("/usr/bin").iterdir()):
        if path.is_file() and not path.is_symlink() and SAMPLE_MIN_BYTES <= path.stat().st_size <= SAMPLE_MAX_BYTES:
            with path.open("rb") as program:
                if program.read(4) == b"\x7fELF":
                    yield path
