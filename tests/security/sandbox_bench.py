"""Hostile plugins for the real sandbox: a place for them, and what the host sees of their processes."""

import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.sandbox import BubblewrapSandbox
from services.plugins.ports import InputFile, SandboxReport, SandboxRequest

MANIFEST = """\
[plugin]
name = "hostile"
version = "1.0.0"
description = "Tries to get out."
kind = "host"

[runtime]
timeout_s = {timeout_s}
memory_mib = 128
scratch_mib = 8

[applies]
stages = ["static"]

[results.said]
kind = "json"
title = "Said"

[results.file]
kind = "file"
title = "Files"
is_many = true
"""
MAIN = """\
import ctypes, json, os, signal, socket, subprocess, sys, time
from pathlib import Path
from malbox.sdk import Context, PluginFailure, PluginSkipped

def run(context):
"""


@dataclass
class Bench:
    """A place for hostile plugins: readable by the sandbox's user, gone after the test."""

    root: Path

    async def run(self, body: str, *, timeout_s: int = 20, inputs: tuple[InputFile, ...] = ()) -> SandboxReport:
        """The plugin whose `run` has this body was run on a five-byte sample."""
        self.write(body, timeout_s=timeout_s)
        return await BubblewrapRunner().run(self.request(inputs=inputs))

    def write(self, body: str, *, timeout_s: int = 20) -> None:
        """The plugin has this body, and there is a sample."""
        folder = self.root / "plugin"
        folder.mkdir(exist_ok=True)
        (folder / "plugin.toml").write_text(MANIFEST.format(timeout_s=timeout_s), encoding="utf-8")
        (folder / "plugin.py").write_text(MAIN + textwrap.indent(textwrap.dedent(body), "    "), encoding="utf-8")
        (self.root / "sample").write_bytes(b"hello")

    def request(self, *, inputs: tuple[InputFile, ...] = (), config: dict[str, Any] | None = None) -> SandboxRequest:
        """A run of it, with a spool of its own."""
        spool = self.root / f"spool-{time.monotonic_ns()}"
        spool.mkdir()
        return SandboxRequest(
            manifest=load_manifest(self.root / "plugin"),
            plugin_dir=self.root / "plugin",
            sample=self.root / "sample",
            sample_name="sample",
            spool_dir=spool,
            inputs=inputs,
            config=config or {},
        )

    async def said(self, body: str) -> object:
        """What the plugin emitted as `said`."""
        report = await self.run(body)
        assert report.outcome == "completed", (report.reason, report.log)
        return orjson.loads(report.results[0].path.read_bytes())


def processes_with(marker: str) -> list[int]:
    """Processes of this host whose command line holds the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@dataclass
class Living:
    """A hostile plugin whose sandbox serves one run after another."""

    bench: Bench
    sandbox: BubblewrapSandbox

    async def run(self, command: str, sample: bytes = b"hello") -> SandboxReport:
        """The plugin did what `command` says, in Python, to that sample."""
        (self.bench.root / "sample").unlink(missing_ok=True)
        (self.bench.root / "sample").write_bytes(sample)
        return await self.sandbox.run(self.bench.request(config={"command": command}))


def said(report: SandboxReport) -> object:
    """What a run that completed emitted."""
    assert report.outcome == "completed", (report.reason, report.log)
    return orjson.loads(report.results[0].path.read_bytes())
