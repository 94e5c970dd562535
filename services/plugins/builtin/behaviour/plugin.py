"""`behaviour`: one JSON result out of the trace that the guest plugin `syscalls` recorded, which is hostile bytes."""

from malbox.sdk import Context, PluginSkipped

from .behaviour import Behaviour
from .strace import read_lines

TRACER = "syscalls"


def run(context: Context) -> None:
    """The result is emitted. Raises PluginSkipped when nothing was traced."""
    trace = context.input(TRACER, TRACER)
    if trace is None:
        raise PluginSkipped("no system calls were traced for this task")
    behaviour = Behaviour()
    with trace.path.open("rb") as file:
        for line in read_lines(file):
            behaviour.feed(line)
    context.emit_json("behaviour", behaviour.result())
    context.log("trace_read", **behaviour.counts())
