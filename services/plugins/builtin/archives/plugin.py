"""Opens what is packed. Hostile bytes: budgets for everything, and nothing is ever written under a name from inside."""

from typing import Any

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.cpu_budget import cpu_budget
from malbox.sdk.passwords import CUSTOMARY_PASSWORDS

from .budget import Budget
from .kinds import recognise
from .walk import Walk
from .zips import IsDocument

PROCESSOR_S = 60.0
CHILD_TYPE = "application/octet-stream"


def run(context: Context) -> None:
    """The result `archives` and the files `children/…` are emitted."""
    kind = recognise(context.sample)
    if kind is None:
        raise PluginSkipped("not an archive")
    walk = Walk(context.scratch, passwords(context.config), Budget())
    try:
        with cpu_budget(PROCESSOR_S) as time:
            walk.open(context.sample, context.sample_name, kind)
    except IsDocument:
        raise PluginSkipped("a document or package in a ZIP container") from None
    if time.is_spent:
        walk.budget.note("seconds", PROCESSOR_S, context.sample_name[:100])
    if walk.is_empty_handed:
        raise PluginFailure("; ".join(walk.findings.as_json()["problems"]) or "the archive is empty")
    context.emit_json("archives", walk.as_json())
    for number, child in enumerate(walk.children, start=1):
        context.emit_file(f"children/{number:04d}", child.spool.path, CHILD_TYPE)


def passwords(config: dict[str, Any]) -> tuple[str, ...]:
    """The submission's first, then the configured, then the customary ones; each once."""
    given = (config.get("password", ""), *config.get("passwords", []), *CUSTOMARY_PASSWORDS)
    return tuple(dict.fromkeys(filter(None, given)))
