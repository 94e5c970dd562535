"""What several static plugins say of a file, one after the other, as in a plan."""

import json
from pathlib import Path
from typing import Any

from malbox.sdk import Input
from malbox.sdk.context import PluginFunction
from malbox.sdk.testing import run_plugin
from services.plugins.builtin.capabilities.plugin import run


def read(sample: Path, scratch: Path, *functions: PluginFunction) -> dict[str, Any]:
    """What these plugins and then `capabilities` say of the file, by plugin and result."""
    said: dict[str, Any] = {}
    inputs: list[Input] = []
    for function in (*functions, run):
        plugin = function.__module__.split(".")[-2]
        emitted = run_plugin(function, sample, scratch=scratch, inputs=tuple(inputs))
        for name, content in emitted.content.items():
            path = scratch / f"{plugin}-{name}"
            path.write_bytes(content)
            inputs.append(Input(plugin=plugin, name=name, path=path, media_type=""))
            if emitted.kinds[name] == "json":
                said[f"{plugin}/{name}"] = json.loads(content)
    return said
