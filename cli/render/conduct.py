"""What the sample did, on a terminal: processes, timeline, network, files."""

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from cli.render.escape import safe
from cli.render.layout import grid, items_of, more, number_of, object_of, part, seconds, size, texts_of

PROCESSES_SHOWN_MAX = 60
TIMELINE_SHOWN_MAX = 40
NETWORK_SHOWN_MAX = 30
FILES_SHOWN_MAX = 40
DEPTH_SHOWN_MAX = 10


def processes(report: dict[str, Any]) -> RenderableType | None:
    """The process tree."""
    found = items_of(report, "processes")
    if not found:
        return None
    tree = Tree("", hide_root=True, guide_style="dim")
    branches = [tree]
    for process in found[:PROCESSES_SHOWN_MAX]:
        depth = min(max(0, number_of(process, "depth")), DEPTH_SHOWN_MAX, len(branches) - 1)
        branches = [*branches[: depth + 1], branches[depth].add(_process(process))]
    rest = more(min(len(found), PROCESSES_SHOWN_MAX), found, _cut(report, "processes"), "processes")
    return part("Processes", tree, *rest, note=f"{len(found) + _cut(report, 'processes')} seen")


def _process(process: dict[str, Any]) -> Text:
    command = " ".join(texts_of(process, "argv")) or process.get("exe")
    return Text.assemble(
        (f"{number_of(process, 'pid')} ", "dim"),
        safe(command, limit_chars=200),
        "  ",
        safe(_ending(process), style="dim"),
        overflow="fold",
    )


def _ending(process: dict[str, Any]) -> str:
    if process.get("signal"):
        return f"killed by {process['signal']}"
    code = process.get("exit_code")
    return "still running at the end" if code is None else f"exit {code}"


def timeline(report: dict[str, Any]) -> RenderableType | None:
    """The first events."""
    found = items_of(report, "timeline")
    if not found:
        return None
    table = grid("dim", "dim", "bold", "")
    for event in found[:TIMELINE_SHOWN_MAX]:
        table.add_row(
            Text(seconds(event.get("at_s")), justify="right"),
            safe(event.get("pid")),
            safe(event.get("event"), limit_chars=24),
            safe(event.get("detail"), limit_chars=200),
        )
    rest = more(min(len(found), TIMELINE_SHOWN_MAX), found, _cut(report, "timeline"), "events")
    return part("Timeline", table, *rest, note="since the observation began, pid")


def network(report: dict[str, Any]) -> RenderableType | None:
    """What it tried to reach."""
    found = items_of(report, "network")
    if not found:
        return None
    table = grid("dim", "dim", "bold", "")
    for attempt in found[:NETWORK_SHOWN_MAX]:
        protocol = attempt.get("protocol") or attempt.get("family")
        table.add_row(
            Text(seconds(attempt.get("at_s")), justify="right"), safe(protocol), _target(attempt), _outcome(attempt)
        )
    rest = more(min(len(found), NETWORK_SHOWN_MAX), found, _cut(report, "network"), "attempts")
    return part("Network attempts", table, *rest)


def _target(attempt: dict[str, Any]) -> Text:
    address = str(attempt.get("address") or "?")
    host = f"[{address}]" if ":" in address else address
    return safe(host if attempt.get("port") is None else f"{host}:{attempt['port']}")


def _outcome(attempt: dict[str, Any]) -> Text:
    words = [f"asks for {attempt['query']}"] if attempt.get("query") else []
    words += [str(attempt["outcome"])] if attempt.get("outcome") else []
    words += [f"{number_of(attempt, 'count')} times"] if number_of(attempt, "count") > 1 else []
    return safe(" · ".join(words))


def files(report: dict[str, Any]) -> RenderableType | None:
    """What it touched; for what was kept, the command that fetches it."""
    found = items_of(report, "files")
    if not found:
        return None
    table = grid("dim", "")
    for file in found[:FILES_SHOWN_MAX]:
        table.add_row(safe(", ".join(texts_of(file, "actions")), limit_chars=40), _file(file))
    kept = sum(1 for file in found if file.get("result_id"))
    rest = more(min(len(found), FILES_SHOWN_MAX), found, _cut(report, "files"), "files")
    return part("Files", table, *rest, note=f"{kept} kept for download" if kept else "")


def _file(file: dict[str, Any]) -> RenderableType:
    errors = ", ".join(texts_of(file, "errors"))
    path = Text.assemble(safe(file.get("path")), "  " if errors else "", safe(errors, style="red"))
    if not file.get("result_id"):
        return path
    command = safe(f"malbox artifacts get {file['result_id']}", style="cyan")
    return Group(path, Text.assemble((f"{size(file.get('size_bytes'))}  ", "dim"), command))


def _cut(report: dict[str, Any], what: str) -> int:
    return number_of(object_of(report, "truncated"), what)
