"""Runs one plugin on one file as production does, sandbox included: `python -m services.plugins.trial`.

A guest plugin is rehearsed instead (`guest_trial`): there is no machine here.

The request is one JSON object on standard input: `folder`, `sample`, `sample_name`, `config`, `inputs` (each `plugin`,
`name`, `path`, `media_type`) and `into`, a directory that gets the results. The answer is one JSON object on standard
output: `outcome`, `reason`, `duration_ms`, `log`, and `results` (each `name`, `kind`, `media_type`, `size_bytes`,
`path`).
"""

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from malbox.sdk.manifest import ManifestError, load_manifest
from services.chassis import log
from services.chassis.clock import SystemClock
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.folders import BUILTIN_DIR
from services.plugins.adapters.versions import KeptVersions
from services.plugins.domain.catalogue import Plugin
from services.plugins.domain.occasion import Occasion
from services.plugins.errors import SandboxUnavailable
from services.plugins.guest_trial import rehearsed
from services.plugins.host_runs import HostRuns
from services.plugins.instances import Instances
from services.plugins.policy.packages import obstacle
from services.plugins.ports import InputFile, SandboxReport

REFUSED = 4
OCCASION = Occasion("trial", 1, "static", "trial")


async def trial(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """What the run came to. `place` is empty, and open to everybody. Raises ManifestError, SandboxUnavailable."""
    versions = KeptVersions(place / "versions")
    versions.sweep()
    plugin = versions.keep(Path(request["folder"]))
    if plugin.manifest.plugin.kind == "guest":
        if not plugin.manifest.is_bundled:
            raise SandboxUnavailable(f"{plugin.name} is a part of the agent: it runs in a machine, as part of a task")
        return rehearsed(plugin, request, _empty(place / "rehearsal"))
    config = plugin.manifest.effective_config(request["config"])
    sandbox = BubblewrapRunner()
    await sandbox.probe()
    instances = Instances(sandbox, SystemClock(), most=1)
    runs = HostRuns(instances, place / "spool", runs_at_once=1)
    runs.sweep()
    sample = _readable(Path(request["sample"]), place / "sample")
    inputs = tuple(_input(one, place / f"input-{number}") for number, one in enumerate(request["inputs"]))
    async with instances.running(), instances.holding(OCCASION):
        reason = await _obstacle(runs, plugin, sample, request["sample_name"])
        if reason is not None:
            return {"outcome": "skipped", "reason": reason, "duration_ms": 0, "log": "", "results": []}
        async with runs.run(
            plugin, OCCASION, sample=sample, sample_name=request["sample_name"], config=config, inputs=inputs
        ) as report:
            return _shown(report, Path(request["into"]))


async def _obstacle(runs: HostRuns, plugin: Plugin, sample: Path, name: str) -> str | None:
    """Why a task would pass the plugin by on this sample, decided from its content as a task does it."""
    identity = Plugin(load_manifest(BUILTIN_DIR / "identity"), BUILTIN_DIR / "identity")
    async with runs.run(identity, OCCASION, sample=sample, sample_name=name) as report:
        if report.outcome != "completed":
            raise SandboxUnavailable(f"the sample's kind could not be determined: {report.reason}")
        said = json.loads(report.results[0].path.read_bytes())
    return obstacle(plugin.manifest, said["package"], said["platform"], said["mime"])


def _empty(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def _input(one: dict[str, str], place: Path) -> InputFile:
    return InputFile(one["plugin"], one["name"], _readable(Path(one["path"]), place), one["media_type"])


def _readable(path: Path, place: Path) -> Path:
    """A copy that anybody may read, as files of the object store are."""
    shutil.copyfile(path, place)
    place.chmod(0o644)
    return place


def _shown(report: SandboxReport, into: Path) -> dict[str, Any]:
    results = []
    for number, result in enumerate(report.results):
        path = into / f"{number:03d}"
        shutil.copyfile(result.path, path)
        described = {"name": result.name, "kind": result.kind, "media_type": result.media_type}
        results.append({**described, "size_bytes": result.size_bytes, "path": str(path)})
    return {
        "outcome": report.outcome,
        "reason": report.reason,
        "duration_ms": report.duration_ms,
        "log": report.log.decode("utf-8", "replace"),
        "results": results,
    }


@contextmanager
def _open_place() -> Iterator[Path]:
    place = Path(mkdtemp(prefix="malbox-trial-"))
    try:
        place.chmod(0o755)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> int:
    """0 with the answer on standard output, or 4 with the reason there."""
    log.configure("trial")  # a line of the log is no part of the answer, nor of the reason
    request = json.load(sys.stdin)
    try:
        with _open_place() as place:
            answer = asyncio.run(trial(request, place))
    except (ManifestError, SandboxUnavailable, OSError) as error:
        sys.stdout.write(f"{error}\n")
        return REFUSED
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
