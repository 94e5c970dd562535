"""The test kit: runs a plugin and hands back what it emitted.

`run_plugin` runs its function in the test's own process, for trusted bytes only and for a debugger; `run_sandboxed`
runs its folder exactly as production does.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from malbox.sdk.context import Context, Input, PluginFunction
from malbox.sdk.trial import SandboxedRun, SandboxRefused, run_sandboxed

__all__ = ["Emitted", "SandboxRefused", "SandboxedRun", "run_plugin", "run_sandboxed"]


@dataclass
class Emitted:
    """What a plugin handed over, by name."""

    content: dict[str, bytes] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def result(self, name: str, kind: str, media_type: str, content: bytes | Path) -> None:
        """Kept under its name."""
        del media_type
        self.content[name] = content if isinstance(content, bytes) else content.read_bytes()
        self.kinds[name] = kind

    def log(self, event: str, keys: dict[str, Any]) -> None:
        """Kept in order."""
        self.lines.append((event, keys))

    def json(self, name: str) -> Any:
        """The JSON result of that name. Raises KeyError."""
        return json.loads(self.content[name])


def run_plugin(
    function: PluginFunction,
    sample: Path,
    *,
    scratch: Path,
    sample_name: str = "sample",
    config: dict[str, Any] | None = None,
    inputs: tuple[Input, ...] = (),
) -> Emitted:
    """What the plugin emitted. Raises what the plugin raises."""
    emitted = Emitted()
    function(
        Context(
            sample=sample,
            sample_name=sample_name,
            scratch=scratch,
            emitter=emitted,
            config=config or {},
            inputs=inputs,
        )
    )
    return emitted
