"""What goes to the terminal: results on standard output, the rest on standard error, hostile text made harmless."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.errors import CliError
from cli.render import safe
from cli.render.escape import escaped

MESSAGE_LINE_MAX_CHARS = 2000
Column = str | Callable[[dict[str, Any]], object]
"""The key of an object's member, or what makes the cell from the object."""

PIPE_WIDTH = 200

out = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
err = Console(stderr=True)


def line(value: object) -> Text:
    """The value as text that no markup and no escape sequence in it can change."""
    return safe(value)


def print_json(content: object) -> None:
    """The content as JSON in ASCII, for programs; nothing in it can reach the terminal as a control character."""
    print(json.dumps(content, indent=2))


def print_json_line(content: object) -> None:
    """The content as one line of JSON, at once."""
    print(json.dumps(content, separators=(",", ":")), flush=True)


def print_line(value: object) -> None:
    """The value on one line, however long."""
    out.print(line(value), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """The rows under their headings, or the sentence that there are none."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(line(cell) for cell in row))
    if table.row_count:
        out.print(table)
    else:
        err.print(empty, markup=False)


def named(*names: str) -> dict[str, Column]:
    """Columns that are headed by what they show."""
    return {name: name for name in names}


def print_items(items: Iterable[dict[str, Any]], columns: Mapping[str, Column], *, empty: str) -> None:
    """A row for each object, with its cells under the headings, or the sentence that there are none."""
    rows = ([each.get(of) if isinstance(of, str) else of(each) for of in columns.values()] for each in items)
    print_table(tuple(columns), rows, empty=empty)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair a line; what has no value is left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value not in (None, "", [], {}):
            table.add_row(name, line(value))
    out.print(table)


def say(text: str) -> None:
    """A sentence for the person, on standard error."""
    err.print(Text(text), soft_wrap=True)


def show_error(error: CliError) -> None:
    """The fault and its remedy, on standard error."""
    err.print(Text.assemble(("Error: ", "bold red"), *_lines(error.message)), soft_wrap=True)
    if error.remedy:
        err.print(Text.assemble(("  → ", "bold"), *_lines(error.remedy)), soft_wrap=True)


def is_terminal() -> bool:
    """Whether a person watches standard error."""
    return err.is_terminal and sys.stderr.isatty()


def items_of(content: Any) -> list[dict[str, Any]]:
    """The objects of a listing."""
    listed = content.get("items", []) if isinstance(content, dict) else content
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _lines(text: str) -> list[str]:
    return ["\n    ".join(escaped(each, limit_chars=MESSAGE_LINE_MAX_CHARS) for each in text.splitlines())]
