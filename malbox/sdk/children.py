"""Files that a plugin finds inside the sample: handed out once each, under names of ours, within bounds."""

import hashlib
from collections import Counter
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
        self._found: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._total_bytes = 0
        self._left_out: Counter[str] = Counter()

    def add(self, path: str, kind: str, content: bytes) -> None:
        """The file is a child. `path` is where it was and how it is called there: for display only."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not content or sha256 in self._found:
            return
        bound = self._met(len(content))
        if bound:
            self._left_out[bound] += 1
            self._findings.truncated()
            return
        told = {
            "name": f"children/{len(self._found) + 1:04d}",
            "path": printable(path),
            "sha256": sha256,
            "media_type": MEDIA_TYPE,
            "size_bytes": len(content),
            "from": kind,
        }
        self._total_bytes += len(content)
        self._found[sha256] = told, content  # at once: the end of a budget of time may come between any two steps

    def as_json(self) -> list[dict[str, Any]]:
        """What is told of them, as the list `children` of the plugin's result; what was left out is a problem of it."""
        for bound, count in self._left_out.items():
            self._findings.problem(f"files found inside that are not handed out, for there are {bound}: {count}")
        return [told for told, _ in self._found.values()]

    def emit(self, context: Context) -> None:
        """Each is a file result, written to the scratch directory first."""
        for told, content in self._found.values():
            path = context.scratch / told["name"].replace("/", "-")
            path.write_bytes(content)
            context.emit_file(told["name"], path, MEDIA_TYPE)
            path.unlink()

    def _met(self, size_bytes: int) -> str:
        """The bound that one more file of this size is over, in words; empty: none."""
        if size_bytes > CHILD_MAX_BYTES:
            return f"more than {CHILD_MAX_BYTES} bytes in one"
        if len(self._found) >= COUNT_MAX:
            return f"more than {COUNT_MAX}"
        if self._total_bytes + size_bytes > TOTAL_MAX_BYTES:
            return f"more than {TOTAL_MAX_BYTES} bytes in all"
        return ""
