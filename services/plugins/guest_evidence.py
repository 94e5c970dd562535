"""From what came out of a guest to results: the plugins' sources, and what the agent itself kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from contracts.limits import ARTIFACTS_PER_RUN_MAX
from contracts.planning import PlannedRun
from services.plugins.guest_record import GuestRecord, Source
from services.plugins.ports_guest import Collected
from services.plugins.record import Ending, Evidence

AGENT = "agent"
GUEST_PATH_MAX_CHARS = 1024


def run_endings(
    runs: Sequence[PlannedRun], record: GuestRecord, exec_error: str, titles: Mapping[str, str]
) -> list[tuple[PlannedRun, Ending, list[Evidence]]]:
    """Each guest plugin with its outcome and its evidence: the source of its name, under its title of `titles`."""
    endings = []
    for planned in runs:
        source = record.sources.get(planned.plugin)
        if source is not None and source.size_bytes > 0:
            evidence = _of(planned.plugin, source, titles.get(planned.plugin, ""))
            endings.append((planned, Ending("completed"), [evidence]))
        else:
            why = f": {exec_error}" if exec_error else ""
            endings.append((planned, Ending("failed", f"no evidence came from the guest{why}", is_error=True), []))
    return endings


def agent_evidence(
    runs: Sequence[PlannedRun], record: GuestRecord, collected: Collected, directory: Path
) -> list[Evidence]:
    """The sample's output, the files it wrote, and the agent's own view of processes."""
    planned = {run.plugin for run in runs}
    summary = directory / "summary.json"
    record.write_summary(summary)
    found = [Evidence("processes", "json", "application/json", summary)]
    found += [
        _of(name, source)
        for name, source in sorted(record.sources.items())
        if name not in planned and source.size_bytes > 0
    ]
    found += [
        Evidence(
            name=f"dropped/{number:03d}",
            kind="file",
            media_type="application/octet-stream",
            path=file.path,
            guest_path=file.guest_path[:GUEST_PATH_MAX_CHARS],
            is_truncated=file.is_truncated,
        )
        for number, file in enumerate(collected.files[:ARTIFACTS_PER_RUN_MAX])
    ]
    return found


def _of(name: str, source: Source, title: str = "") -> Evidence:
    return Evidence(name, "bytes", "text/plain", source.path, is_truncated=source.is_truncated, title=title)
