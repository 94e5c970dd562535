"""Tries one guest plugin on this host: the agent's own code drives it, and what it emits is judged as in a task.

The sample is not run. What the plugin is told is what a task would tell it of a sample that ended by itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from contracts.envelope import Message
from contracts.guest import agent_pb2 as pb
from contracts.ids import derived
from contracts.plugins import ObservationEnded, RunOutcome, SampleExited, SampleStarted
from services.plugins.adapters.bundles import write_bundle
from services.plugins.adapters.guest_events import EventReader
from services.plugins.domain.catalogue import Plugin
from services.plugins.errors import SandboxUnavailable
from services.plugins.guest_pieces import PluginRecord
from services.plugins.guest_record import GuestRecord

AROUND_S = 60.0
CALLS = 5
ROOT = Path(__file__).parents[2]


def rehearsed(plugin: Plugin, request: dict[str, Any], place: Path) -> dict[str, Any]:
    """What the trial came to. `place` is empty, and open to everybody. Raises ManifestError, SandboxUnavailable."""
    manifest, bundle = plugin.manifest, place / "bundle.zip"
    write_bundle(manifest, plugin.folder, bundle)
    runtime = manifest.runtime
    asked = {
        "folder": str(place),
        "bundle": str(bundle),
        "name": plugin.name,
        "config": manifest.effective_config(request["config"]),
        **{key: getattr(runtime, key) for key in ("timeout_s", "memory_mib", "scratch_mib", "capabilities")},
        **{key: request[key] for key in ("sample", "sample_name")},
        "facts": [fact for fact in _facts(request) if manifest.events.wants(fact["fact"], fact["content"])],
    }
    *events, ending = _answer(asked, timeout_s=CALLS * runtime.timeout_s + AROUND_S)
    spool = place / "spool"
    spool.mkdir()
    record = _taken(events, PluginRecord(manifest, spool))
    return _shown(record, pb.ShutdownPluginReply.FromString(ending), Path(request["into"]))


def _answer(asked: dict[str, Any], *, timeout_s: float) -> list[bytes]:
    """The record's events and how the plugin ended, as messages on the wire."""
    ended = subprocess.run(
        (sys.executable, "-P", "-m", "guest.rehearsal"),
        input=json.dumps(asked).encode(),
        capture_output=True,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", "/usr/bin:/bin")},
        timeout=timeout_s,
        check=False,
    )
    if ended.returncode != 0:
        raise SandboxUnavailable(ended.stderr.decode("utf-8", "replace").strip()[-2000:])
    return list(_messages(ended.stdout))


def _messages(content: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        yield content[place + 4 : place + 4 + length]
        place += 4 + length


def _taken(events: list[bytes], plugin: PluginRecord) -> PluginRecord:
    name = plugin.manifest.plugin.name
    reader = EventReader(lease_id=name, epoch=1)
    record = GuestRecord(directory=plugin.directory, heartbeat_at=0.0, plugins={name: plugin})
    for raw in events:
        event = reader.believe(pb.Event.FromString(raw))
        if event is not None:
            record.take(event, 0.0)
    record.close()
    return plugin


def _shown(record: PluginRecord, ending: pb.ShutdownPluginReply, into: Path) -> dict[str, Any]:
    results = []
    for number, one in enumerate(record.evidence()):
        path = into / f"{number:03d}"
        path.write_bytes(one.path.read_bytes())
        described = {"name": one.name, "kind": one.kind, "media_type": one.media_type}
        results.append({**described, "size_bytes": path.stat().st_size, "path": str(path)})
    outcome = ending.outcome if ending.outcome in get_args(RunOutcome) else "failed"
    return {
        "outcome": "failed" if record.fault else outcome,
        "reason": record.fault or ending.reason,
        "duration_ms": ending.duration_ms,
        "log": ending.log.decode("utf-8", "replace"),
        "results": results,
    }


def _facts(request: dict[str, Any]) -> list[dict[str, Any]]:
    """What the trial was given to tell, or the course of a sample that ends by itself."""
    for one in request["inputs"]:
        if (one["plugin"], one["name"]) == ("malbox", "events"):
            given: list[dict[str, Any]] = json.loads(Path(one["path"]).read_bytes())["events"]
            return given
    about: dict[str, Any] = {"task_id": derived("tsk", "trial"), "attempt": 1, "stage": "guest"}
    lease_id, argv = derived("lea", "trial"), (request["sample_name"],)
    facts: tuple[Message, ...] = (
        SampleStarted(**about, lease_id=lease_id, pid=os.getpid(), argv=argv),
        SampleExited(**about, lease_id=lease_id, exit_code=0),
        ObservationEnded(**about, ended_by="sample_exit"),
    )
    return [{"fact": type(fact).__name__, "content": fact.model_dump(mode="json")} for fact in facts]
