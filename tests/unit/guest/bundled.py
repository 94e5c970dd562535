"""Guest plugins of a test's own: their folders, and the agent's side of one lease, with real child processes."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from contracts.guest import agent_pb2 as pb
from guest.journal import Journal
from guest.platforms import PluginProgram
from guest.platforms.linux import Linux
from guest.plugins.bundles import Bundles
from guest.settings import AgentSettings
from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bundles import write_bundle

MANIFEST = """\
[plugin]
name = "{name}"
version = "1.0.0"
description = "A guest plugin of a test."
kind = "guest"

[runtime]
entry = "plugin:Plugin"
timeout_s = {timeout_s}
memory_mib = 256
scratch_mib = 1
{runtime}

[applies]
stages = ["guest"]

[results.seen]
kind = "json"
title = "Seen"

[results.kept]
kind = "bytes"
title = "Kept"

[results.files]
kind = "file"
title = "Files"
is_many = true

{more}
"""
HEAD = "import os, sys, threading, time\nfrom malbox.sdk.guest import GuestPlugin, PluginFailure, PluginSkipped\n\n"
FAITHFUL = """
class Plugin(GuestPlugin):
    def initialize(self, config):
        self.emit("seen", ["initialize", config])
    def arm(self):
        self.emit("seen", "arm")
    def on_event(self, event):
        self.emit("seen", [event.fact, event.content])
    def flush(self):
        self.emit("seen", "flush")
    def shutdown(self):
        self.log("was_shut_down", pid=os.getpid())
"""


def make_plugin(
    parent: Path, name: str, code: str = FAITHFUL, *, timeout_s: int = 10, runtime: str = "", more: str = ""
) -> Path:
    """The folder of a guest plugin with that code."""
    folder = parent / name
    folder.mkdir(parents=True)
    manifest = MANIFEST.format(name=name, timeout_s=timeout_s, runtime=runtime, more=more)
    (folder / "plugin.toml").write_text(manifest, encoding="utf-8")
    (folder / "plugin.py").write_text(HEAD + dedent(code), encoding="utf-8")
    return folder


class Unconfined(Linux):
    """A platform whose plugins run as whoever runs the test."""

    def start_plugin(self, program: PluginProgram) -> "subprocess.Popen[bytes]":
        """As it is, with the test's own interpreter."""
        program.scratch_dir.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-I", "-B", str(program.bundle)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=program.scratch_dir,
        )  # fmt: skip

    def end_plugin(self, process: "subprocess.Popen[bytes]", program: PluginProgram) -> None:
        """It is gone."""
        del program
        process.kill()
        process.wait(10)


@dataclass
class Side:
    """The agent's side of one lease."""

    folder: Path
    journal: Journal
    bundles: Bundles

    def put(self, folder: Path) -> bytes:
        """The plugin's bundle is in; its digest."""
        manifest, packed = load_manifest(folder), self.folder / f"{folder.name}.zip"
        write_bundle(manifest, folder, packed)
        content = packed.read_bytes()
        digest = hashlib.sha256(content).digest()
        header = pb.PutHeader(name="bundle", size_bytes=len(content), sha256=digest, plugin=manifest.plugin.name)
        self.bundles.put(manifest.plugin.name, header, iter([content]))
        return digest

    def start(self, folder: Path, config: dict[str, object] | None = None) -> str:
        """The plugin was put and is ready, or over; its name."""
        manifest, digest = load_manifest(folder), self.put(folder)
        runtime = manifest.runtime
        bundle = pb.PluginBundle(
            sha256=digest, timeout_s=runtime.timeout_s, memory_mib=runtime.memory_mib, scratch_mib=runtime.scratch_mib,
            capabilities=runtime.capabilities,
        )  # fmt: skip
        self.bundles.initialize(manifest.plugin.name, config or {}, bundle)
        return manifest.plugin.name

    def pieces(self, name: str) -> list[pb.PluginEvidence]:
        """What the journal has of the plugin."""
        events = self.journal.after(0, wait_s=0, count_max=100_000)
        return [event.plugin_evidence for event in events if event.plugin_evidence.plugin == name]

    def seen(self, name: str, result: str = "seen") -> list[object]:
        """The records of its result."""
        return [json.loads(piece.content) for piece in self.pieces(name) if piece.name == result]


def side_of(folder: Path, platform: Linux | None = None, *, first_uid: int = 61184) -> Side:
    """A lease without plugins, with its files below the folder."""
    work_dir = folder / "work"
    work_dir.mkdir()
    journal = Journal(work_dir, lease_id="lea_x", epoch=1)
    own = AgentSettings(work_dir=str(work_dir), plugin_dir=str(folder / "plugins"), first_plugin_uid=first_uid)
    return Side(folder, journal, Bundles(own, platform or Unconfined(), journal))
