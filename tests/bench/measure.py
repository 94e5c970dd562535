"""What a benchmark says: figures of several runs, each with its spread, the peers' figure and the goal beside it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

RUNS_MIN = 5


@dataclass(frozen=True)
class Reference:
    """What a row is compared with (design page 10): the peers' figure on such a machine, and the goal, in words."""

    peers: str
    goal: str


@dataclass(frozen=True)
class Row:
    """One line of the table. `values` are the runs, in `unit`; `parts` and `notes` explain the figure."""

    name: str
    what_ran: str
    unit: str
    values: tuple[float, ...]
    reference: Reference
    parts: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.values) if self.values else math.nan

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest of the runs."""
        return (min(self.values), max(self.values)) if self.values else (math.nan, math.nan)

    def as_json(self) -> dict[str, Any]:
        """Everything about the row."""
        return {**asdict(self), "median": self.median, "min": self.spread[0], "max": self.spread[1]}


@dataclass(frozen=True)
class Failure:
    """A row that could not be measured, and why."""

    name: str
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Everything about the failure."""
        return asdict(self)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie: the nearest rank of the sorted values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """For each name the median over the runs that have it, in the order in which names first appear."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: statistics.median(run[name] for run in runs if name in run) for name in names}


def table(rows: Sequence[Row | Failure]) -> str:
    """For a terminal: one line per figure, then what ran, the parts and the notes of each."""
    head = ("row", "median", "min .. max", "runs", "unit", "peers", "goal")
    lines = [head, *(_line(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:], "", *(text for row in rows for text in _details(row))])


def figure(value: float) -> str:
    """Three significant digits, without an exponent for what a person reads off a table."""
    if not math.isfinite(value):
        return "-"
    magnitude = abs(value)
    return f"{value:,.0f}" if magnitude >= 100 else f"{value:.3g}"


def _line(row: Row | Failure) -> tuple[str, ...]:
    if isinstance(row, Failure):
        return (row.name, "FAILED", "", "", "", "", "")
    least, greatest = row.spread
    return (
        row.name,
        figure(row.median),
        f"{figure(least)} .. {figure(greatest)}",
        str(len(row.values)),
        row.unit,
        row.reference.peers,
        row.reference.goal,
    )


def _details(row: Row | Failure) -> list[str]:
    if isinstance(row, Failure):
        return [f"{row.name}: FAILED: {row.reason}", ""]
    parts = [f"    {name:<44} {figure(value):>9} {row.unit}" for name, value in row.parts.items()]
    few = [f"    only {len(row.values)} runs: an indication, not a figure"] if len(row.values) < RUNS_MIN else []
    return [f"{row.name}: {row.what_ran}", *parts, *few, *(f"    {note}" for note in row.notes), ""]
