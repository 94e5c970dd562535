"""What single plugins found, for those that the report has no part of its own for."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.render.escape import escaped, safe
from cli.render.layout import facts, grid, items_of, more, number_of, part

SHOWN_ABOVE = frozenset({"identity", "yara", "behaviour", "capabilities"})
SECTIONS_SHOWN_MAX = 16
FACTS_SHOWN_MAX = 20
NAME_SHOWN_CHARS = 32
TITLE_SHOWN_CHARS = 60
ROWS_SHOWN_MAX = 10
COLUMNS_SHOWN_MAX = 6
TEXT_SHOWN_CHARS = 1500
LINES_SHOWN_MAX = 16


def sections(report: dict[str, Any]) -> RenderableType | None:
    """The sections, each cut to what a terminal can take in."""
    found = [one for one in items_of(report, "sections") if not _is_shown_above(one, report)]
    drawn = [_section(one) for one in found[:SECTIONS_SHOWN_MAX]]
    return Group(*drawn, *more(len(drawn), found, 0, "sections")) if drawn else None


def _is_shown_above(section: dict[str, Any], report: dict[str, Any]) -> bool:
    """Whether another part says the same. The agent's own list of processes is for when nothing better is there."""
    titles = [block.get("title") for block in items_of(section, "blocks")]
    is_agents_list = section.get("plugin") == "agent" and "stdout" not in titles and "stderr" not in titles
    return section.get("plugin") in SHOWN_ABOVE or (is_agents_list and bool(items_of(report, "processes")))


def _section(section: dict[str, Any]) -> RenderableType:
    """A title is a plugin's word: it stands behind the plugin's name, so that it cannot pass for a part of ours."""
    title = section.get("title")
    words = [f"Plugin {section.get('plugin')}", *([str(title)] if title else [])]
    heading = " · ".join(safe(word, limit_chars=TITLE_SHOWN_CHARS).plain for word in words)
    blocks = items_of(section, "blocks")
    bodies = [body for number, block in enumerate(blocks) for body in _block(block, _own_heading(block, number, title))]
    if left := number_of(section, "more"):
        bodies.append(Text(f"… and {left} more values and blocks in the plugin's result", style="dim italic"))
    return part(heading, *bodies, note=safe(section.get("version"), limit_chars=20).plain)


def _own_heading(block: dict[str, Any], number: int, title: object) -> list[RenderableType]:
    """The block's own, unless the section's says the same; first facts in a section without one stand under that."""
    own = block.get("title")
    if number == 0 and (own == title if title else block.get("kind") == "facts"):
        return []
    above = [] if block.get("kind") == "text" else [Text("")]
    return [*above, safe(own, style="italic", limit_chars=TITLE_SHOWN_CHARS)]


def _block(block: dict[str, Any], heading: list[RenderableType]) -> list[RenderableType]:
    match block.get("kind"):
        case "facts":
            return [*heading, *_facts(block)]
        case "table":
            return [*heading, *_table(block)]
        case "text":
            return [*heading, *_text(block)]
    return []


def _facts(block: dict[str, Any]) -> list[RenderableType]:
    pairs = [
        (escaped(pair[0], limit_chars=NAME_SHOWN_CHARS), safe(pair[1], limit_chars=160))
        for pair in _lists(block, "facts")
        if len(pair) == 2 and pair[1]  # noqa: PLR2004 - name and value
    ]
    table = facts(pairs[:FACTS_SHOWN_MAX], name_width=None)
    return [table, *more(min(len(pairs), FACTS_SHOWN_MAX), pairs, number_of(block, "more"), "values")]


def _table(block: dict[str, Any]) -> list[RenderableType]:
    columns = block.get("columns")
    rows = _lists(block, "rows")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    known = columns if isinstance(columns, list) else []
    names = known[:COLUMNS_SHOWN_MAX]
    for name in names:
        table.add_column(safe(name, limit_chars=24), overflow="fold")
    for row in rows[:ROWS_SHOWN_MAX]:
        table.add_row(*(safe(cell, limit_chars=60) for cell in row[: len(names)]))
    return [
        table,
        *more(min(len(rows), ROWS_SHOWN_MAX), rows, number_of(block, "more"), "rows"),
        *more(len(names), known, number_of(block, "more_columns"), "columns"),
    ]


def _text(block: dict[str, Any]) -> list[RenderableType]:
    """The first lines, each escaped on its own and marked at its left, so that none can pass for ours."""
    lines = str(block.get("text") or "")[:TEXT_SHOWN_CHARS].rstrip("\n").split("\n")
    table = grid("dim", "", first_width=1)
    for line in lines[:LINES_SHOWN_MAX]:
        table.add_row("│", safe(line, limit_chars=200))
    is_cut = block.get("is_cut") or len(lines) > LINES_SHOWN_MAX or len(str(block.get("text"))) > TEXT_SHOWN_CHARS
    return [table, *([Text("… and more in the artifact", style="dim italic")] if is_cut else [])]


def _lists(block: dict[str, Any], key: str) -> list[list[Any]]:
    found = block.get(key)
    return [item for item in found if isinstance(item, list)] if isinstance(found, list) else []
