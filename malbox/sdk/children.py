"""Files that a plugin finds inside the sample: handed out once each, under names of ours, within bounds."""

import hashlib
from typing import Any

from malbox.sdk.context import Context
from malbox.sdk.findings import Findings, printable

COUNT_MAX = 50
TOTAL_MAX_BYTES = 96 * 1024 * 1024
CHILD_MAX_BYTES = 60 * 1024 * 1024
MEDIA_TYPE = "application/octet-stream"


class Children:
    """The plugin declares the result group `children`, of kind file, and scratch space for `TOTAL_MAX_BYTES`."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._contents: dict[str, bytes] = {}
        self._told: list[dict[str, Any]] = []
        self._total_bytes = 0

    def add(self, path: str, kind: str, content: bytes) -> None:
        """The file is a child. `path` is where it was and how it is called there: for display only."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not content or sha256 in self._contents:
            return
        is_over = len(self._contents) >= COUNT_MAX or len(content) > CHILD_MAX_BYTES
        if is_over or self._total_bytes + len(content) > TOTAL_MAX_BYTES:
            self._findings.truncated()
            return
        self._contents[sha256] = content
        self._total_bytes += len(content)
        self._told.append(
            {
                "name": f"children/{len(self._contents):04d}",
                "path": printable(path),
                "sha256": sha256,
                "media_type": MEDIA_TYPE,
                "size_bytes": len(content),
                "from": kind,
            }
        )

    def as_json(self) -> list[dict[str, Any]]:
        """What is told of them, as the list `children` of the plugin's result."""
        return self._told

    def emit(self, context: Context) -> None:
        """Each is a file result, written to the scratch directory first."""
        for told, content in zip(self._told, self._contents.values(), strict=True):
            path = context.scratch / told["name"].replace("/", "-")
            path.write_bytes(content)
            context.emit_file(told["name"], path, MEDIA_TYPE)
            path.unlink()
