"""The few shapes that a report is drawn with, and how its plain JSON is read without trusting it."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.render.escape import safe

INDENT = (0, 0, 0, 2)
KIB = 1024


def part(title: str, *body: RenderableType, note: str = "") -> Group:
    """A titled part of the report, set apart by an empty line."""
    heading = Text.assemble((title, "bold cyan"), (f"  {note}" if note else "", "dim"))
    return Group(Text(""), heading, *(Padding(one, INDENT) for one in body))


def grid(*styles: str, first_width: int | None = None) -> Table:
    """Columns without lines; long text folds inside of its own column. The last one takes what is left."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for index, style in enumerate(styles):
        is_last = index == len(styles) - 1
        table.add_column(
            style=style,
            overflow="fold",
            ratio=1 if is_last else None,
            width=first_width if index == 0 else None,
        )
    return table


def facts(pairs: Iterable[tuple[str, object]], *, name_width: int | None = 12) -> Table:
    """Names and values, those without a value left out. `name_width` None: as wide as the longest name."""
    table = grid("dim", "", first_width=name_width)
    for name, value in pairs:
        if value is not None and value != "":
            table.add_row(safe(name), value if isinstance(value, Text) else safe(value))
    return table


def more(shown: int, items: Sequence[Any], cut: int, what: str) -> list[RenderableType]:
    """Lines that say how many are not shown, and how many the report itself leaves out; none when there are none."""
    left = len(items) - shown
    lines = [f"… and {left} more {what} in the JSON report"] if left > 0 else []
    lines += [f"… and {cut} more {what}, which the report leaves out"] if cut > 0 else []
    return [Text(line, style="dim italic") for line in lines]


def items_of(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects in a list of the report; an empty list for anything else."""
    found = holder.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def object_of(holder: dict[str, Any], key: str) -> dict[str, Any]:
    """An object of the report; an empty one for anything else."""
    found = holder.get(key)
    return found if isinstance(found, dict) else {}


def texts_of(holder: dict[str, Any], key: str) -> list[str]:
    """A list of words of the report."""
    found = holder.get(key)
    return [str(item) for item in found] if isinstance(found, list) else []


def number_of(holder: dict[str, Any], key: str) -> int:
    """A count of the report; 0 for anything else."""
    found = holder.get(key)
    return found if isinstance(found, int) else 0


def size(value: object) -> str:
    """Bytes in the unit that reads best."""
    if not isinstance(value, int):
        return ""
    if value < KIB:
        return f"{value} B"
    scaled, unit = value / KIB, "KiB"
    for larger in ("MiB", "GiB"):
        if scaled < KIB:
            break
        scaled, unit = scaled / KIB, larger
    return f"{scaled:.1f} {unit}"


def seconds(value: object) -> str:
    """An offset from the start of the observation."""
    return f"{value:.3f} s" if isinstance(value, int | float) else ""
