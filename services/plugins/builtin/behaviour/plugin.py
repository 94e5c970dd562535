"""`behaviour` and `signatures`: two JSON results out of the trace that the guest plugin `syscalls` recorded.

The trace is hostile bytes. The first result is what was done, the second what that means by the rules of this folder.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from malbox.sdk import Context, PluginSkipped
from malbox.sdk.rules import Fact, Matching, Prepared, read_rules

from .behaviour import Behaviour
from .facts import VOCABULARY, Fields
from .strace import LINES_MAX, read_lines

TRACER = "syscalls"
PLATFORM = "linux"
RULES_DIR = Path(__file__).parent / "rules"


def run(context: Context) -> None:
    """Both results are emitted. Raises PluginSkipped when nothing was traced."""
    trace = context.input(TRACER, TRACER)
    if trace is None:
        raise PluginSkipped("no system calls were traced for this task")
    with trace.path.open("rb") as file:
        behaviour, signatures = observed(read_lines(file), RULES, is_whole=not trace.is_truncated)
    context.emit_json("behaviour", behaviour.result())
    context.emit_json("signatures", signatures)
    context.log("trace_read", **behaviour.counts(), facts=signatures["facts"], matches=len(signatures["matches"]))


def observed(lines: Iterable[str], rules: Prepared, *, is_whole: bool = True) -> tuple[Behaviour, dict[str, Any]]:
    """What was done, and what it means. `is_whole`: nothing that was traced is missing before the lines' bound."""
    matching = Matching(rules, PLATFORM)

    def say(kind: str, fields: Fields, place: dict[str, Any]) -> None:
        matching.feed(Fact(kind, fields, place))

    behaviour = Behaviour(say)
    for line in lines:
        behaviour.feed(line)
    if not is_whole or behaviour.lines >= LINES_MAX:
        matching.cut()
    return behaviour, matching.result()


RULES = Prepared(read_rules(RULES_DIR, VOCABULARY))  # once, before there is a trace
