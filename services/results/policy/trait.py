"""One row of the tables of traits."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trait:
    """The name that plugins use, what it means, and how much it counts (0 to 100)."""

    name: str
    description: str
    techniques: tuple[str, ...]
    points: int
