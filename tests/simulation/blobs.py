"""The object store in memory, and the sandbox that host plugins run in."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

from contracts.blobs import BlobRef
from malbox.sdk.manifest import Manifest
from services.chassis.blobs import BlobMissing, BlobStore, BlobStoreFailed
from services.chassis.errors import PermanentError
from services.plugins.ports import SandboxReport, SandboxRequest, SpooledResult

BLOB_DIR = Path("/simulated/blobs")


class SimBlobs(BlobStore):
    """What is put is durable. It can be away."""

    def __init__(self, content: dict[str, bytes], rng: Random, counts: Counter[str]) -> None:
        self.content = content
        self.rng = rng
        self.counts = counts
        self.failure_rate = 0.0
        self._root = BLOB_DIR

    async def put_bytes(self, content: bytes, *, known: BlobRef | None = None) -> BlobRef:
        """Durable."""
        del known
        await self._trip()
        sha256 = hashlib.sha256(content).hexdigest()
        self.content[sha256] = content
        return BlobRef(sha256=sha256, size_bytes=len(content))

    async def put_file(self, path: Path, *, known: BlobRef | None = None) -> BlobRef:  # noqa: ARG002 - the same shape
        """Durable."""
        content = self.content[path.name] if path.is_relative_to(BLOB_DIR) else _bytes_of(path)
        return await self.put_bytes(content)

    async def size(self, sha256: str) -> int | None:
        """How many bytes, or None."""
        await self._trip()
        content = self.content.get(sha256)
        return None if content is None else len(content)

    async def read(self, sha256: str, *, limit_bytes: int) -> bytes:
        """All of it."""
        await self._trip()
        if sha256 not in self.content:
            raise BlobMissing(f"no blob {sha256}")
        if len(self.content[sha256]) > limit_bytes:
            raise PermanentError("over the limit")
        return self.content[sha256]

    async def stream(self, sha256: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """A part of it."""
        content = await self.read(sha256, limit_bytes=1 << 40)
        yield content[start:end]

    async def _trip(self) -> None:
        await asyncio.sleep(self.rng.random() * 0.002)
        if self.failure_rate and self.rng.random() < self.failure_rate:
            self.counts["blob_store_failure"] += 1
            raise BlobStoreFailed("the object store cannot be reached")


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


class SimSandbox:
    """Runs host plugins: each takes a while, and says whose sample it saw."""

    def __init__(self, rng: Random, counts: Counter[str]) -> None:
        self.rng = rng
        self.counts = counts
        self.crash_rate = 0.0
        self.inside: dict[str, tuple[bytes, ...]] = {}
        """The files that are found inside the sample of that name."""

    @property
    def condition(self) -> dict[str, Any]:
        """Nothing is said of it."""
        return {}

    async def probe(self) -> None:
        """It holds."""

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """The plugin ran."""
        await asyncio.sleep(self.rng.random() * 0.5)
        if self.crash_rate and self.rng.random() < self.crash_rate and request.manifest.plugin.name != "identity":
            self.counts["plugin_crash"] += 1
            return SandboxReport("crashed", "killed by signal 11", (), b"", 10)
        path = request.spool_dir / "result.json"
        said = {"package": "elf", "platform": "linux", "mime": "application/x-elf", "sample": request.sample_name}
        path.write_text(json.dumps(said), encoding="utf-8")
        name = request.manifest.plugin.name
        result = SpooledResult(name, "json", "application/json", path, path.stat().st_size)
        return SandboxReport("completed", "", (result, *self._found(request)), b"", 10)

    def _found(self, request: SandboxRequest) -> tuple[SpooledResult, ...]:
        """What the plugin `identity` hands out beside its own result, where it runs as one of the plan."""
        if request.manifest.plugin.name != "identity" or request.config.get("similarity") is False:
            return ()
        found = []
        for number, content in enumerate(self.inside.get(request.sample_name, ()), start=1):
            path = request.spool_dir / f"child-{number}"
            path.write_bytes(content)
            octets = "application/octet-stream"
            found.append(SpooledResult(f"children/{number:04d}", "file", octets, path, len(content)))
        return tuple(found)

    async def start(self, manifest: Manifest, plugin_dir: Path) -> "SimInstance":
        """The plugin waits for runs."""
        del manifest, plugin_dir
        await asyncio.sleep(self.rng.random() * 0.2)
        return SimInstance(self)


class SimInstance:
    """A sandbox that serves one run after another; a crash takes it along."""

    def __init__(self, sandbox: SimSandbox) -> None:
        self._sandbox = sandbox
        self._gone = asyncio.Event()

    @property
    def is_usable(self) -> bool:
        """Until it is gone."""
        return not self._gone.is_set()

    async def run(self, request: SandboxRequest) -> SandboxReport:
        """The plugin ran."""
        report = await self._sandbox.run(request)
        if report.outcome == "crashed":
            self._gone.set()
        return report

    async def ping(self) -> None:
        """It answers."""

    async def wait_ended(self) -> None:
        """It is gone."""
        await self._gone.wait()

    async def close(self) -> None:
        """It is gone."""
        self._gone.set()
