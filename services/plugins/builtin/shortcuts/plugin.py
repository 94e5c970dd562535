"""Reads a shortcut without following it."""

from typing import Any

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.children import Children
from malbox.sdk.cpu_budget import cpu_budget
from malbox.sdk.findings import Findings

from . import internet, windows
from .judging import hand_out_command, judge

PROCESSOR_S = 15.0
SAMPLE_MAX_BYTES = 16 * 1024 * 1024


def run(context: Context) -> None:
    """The results `shortcuts` and `children/…` are emitted. Raises PluginFailure: too damaged to say where it leads."""
    with context.sample.open("rb") as stream:
        content = stream.read(SAMPLE_MAX_BYTES)
    if content.startswith(windows.MAGIC):
        read = windows.read
    elif internet.is_one(content):
        read = internet.read
    else:
        raise PluginSkipped("not a shortcut")
    findings = Findings()
    children = Children(findings)
    said: dict[str, Any] = {}
    with cpu_budget(PROCESSOR_S) as time:
        said = read(content, findings)
        judge(said, findings)
        hand_out_command(said, children)
    if time.is_spent or not said:
        raise PluginFailure("; ".join(findings.as_json()["problems"]) or "the shortcut could not be read in time")
    context.emit_json("shortcuts", {**said, "children": children.as_json(), **findings.as_json()})
    children.emit(context)
