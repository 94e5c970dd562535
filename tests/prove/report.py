"""What a proof says at its end: a table of what it did, and its figures."""

import sys
from collections.abc import Sequence


def tell(line: str) -> None:
    """One line to whoever waits, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows under headings, columns as wide as they have to be."""
    cells = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def seconds(value: float | None) -> str:
    """A duration, or a dash where there is none."""
    return "-" if value is None else f"{value:.1f} s"
