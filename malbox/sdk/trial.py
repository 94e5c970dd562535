"""The other half of the test kit: runs a plugin's folder exactly as production does, in the real sandbox.

A guest plugin runs in a machine; here it is rehearsed, with the agent's own code and without a sample that runs.

The sandbox is the plugins service's; it is reached as a process of its own, so that a plugin's author needs nothing but
an installation of Malbox.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import malbox
from malbox.sdk.context import EVENTS_NAME, EVENTS_PLUGIN, Event, Input
from malbox.sdk.manifest import load_manifest

ROOT = Path(malbox.__file__).parents[1]
AROUND_A_RUN_S = 120.0
GUEST_CALLS = 5


class SandboxRefused(Exception):
    """The plugin could not be run here; the message says why and what to do."""


@dataclass(frozen=True)
class SandboxedRun:
    """How the run ended (completed, failed, crashed, timed_out or skipped) and why, what it emitted, and its log."""

    outcome: str
    reason: str
    duration_ms: int
    log: str
    content: dict[str, bytes] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    media_types: dict[str, str] = field(default_factory=dict)

    def json(self, name: str) -> Any:
        """The JSON result of that name. Raises KeyError."""
        return json.loads(self.content[name])


def run_sandboxed(
    folder: Path,
    sample: Path,
    *,
    sample_name: str | None = None,
    config: dict[str, Any] | None = None,
    inputs: tuple[Input, ...] = (),
    events: tuple[Event, ...] = (),
) -> SandboxedRun:
    """The plugin in `folder` ran on the sample and nothing of it is left. Raises ManifestError, SandboxRefused.

    A guest plugin is rehearsed: the agent's own code drives it here, it is told `events` (by default those of a sample
    that ends by itself), and the sample is put into place and not run.
    """
    manifest = load_manifest(folder)
    around_s = AROUND_A_RUN_S + (GUEST_CALLS * manifest.runtime.timeout_s if manifest.plugin.kind == "guest" else 0)
    with TemporaryDirectory(prefix="malbox-sandboxed-") as into:
        request = {
            "folder": str(folder.absolute()),
            "sample": str(sample.absolute()),
            "sample_name": sample.name if sample_name is None else sample_name,
            "config": config or {},
            "inputs": [_described(one) for one in (*inputs, *_told(events, Path(into)))],
            "into": into,
        }
        return _run(_answer(request, timeout_s=manifest.runtime.timeout_s + around_s))


def _answer(request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    try:
        ended = subprocess.run(
            (sys.executable, "-P", "-m", "services.plugins.trial"),
            input=json.dumps(request).encode(),
            capture_output=True,
            env={"PYTHONPATH": str(ROOT)},
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SandboxRefused(f"the sandbox did not answer within {error.timeout:.0f} s") from error
    if ended.returncode != 0:
        said = ended.stdout or ended.stderr  # why it refused, or what it died of
        raise SandboxRefused(said.decode("utf-8", "replace").strip()[-2000:] or "the sandbox did not start")
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def _run(answer: dict[str, Any]) -> SandboxedRun:
    results = answer.pop("results")
    return SandboxedRun(
        **answer,
        content={one["name"]: Path(one["path"]).read_bytes() for one in results},
        kinds={one["name"]: one["kind"] for one in results},
        media_types={one["name"]: one["media_type"] for one in results},
    )


def _told(events: tuple[Event, ...], into: Path) -> tuple[Input, ...]:
    """The input that brings the events, as a task would."""
    if not events:
        return ()
    path = into / "events"
    listed = [{"fact": event.fact, "content": event.content} for event in events]
    path.write_text(json.dumps({"events": listed, "is_truncated": False}), encoding="utf-8")
    return (Input(EVENTS_PLUGIN, EVENTS_NAME, path, "application/json"),)


def _described(one: Input) -> dict[str, str]:
    return {"plugin": one.plugin, "name": one.name, "path": str(one.path.absolute()), "media_type": one.media_type}
