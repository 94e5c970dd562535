"""What a fact is, and what a rule is, once it is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from malbox.sdk.findings import printable

SHOWN_MAX_CHARS = 300
Value = str | int | bool


@dataclass(frozen=True)
class Fact:
    """Something that was seen: its kind, its fields, and where it stands in what was read."""

    kind: str
    fields: Mapping[str, Value]
    place: Mapping[str, Any]

    def shown(self) -> str:
        """The fact on one line."""
        words = (f"{name} {value}" for name, value in self.fields.items() if value != "" and value is not False)
        return printable("; ".join(words), SHOWN_MAX_CHARS)


@dataclass(frozen=True)
class Test:
    """What one field of a fact has to be. A test with a pattern has no more than that; the others are combined."""

    __test__ = False  # not one of pytest's

    field: str
    pattern: str | None = None
    is_negated: bool = False
    one_of: frozenset[Value] | None = None
    at_least: int | None = None
    at_most: int | None = None


@dataclass(frozen=True)
class Leaf:
    """One fact of this kind passes all tests."""

    fact: str
    tests: tuple[Test, ...]


@dataclass(frozen=True)
class Count:
    """So many facts do, told apart by a field where one is named."""

    of: Leaf
    at_least: int
    distinct: str | None


@dataclass(frozen=True)
class Sequence:
    """One fact after another does, in this order; all with the same value of a field where one is named."""

    steps: tuple[Leaf, ...]
    same: str | None


@dataclass(frozen=True)
class AnyOf:
    """One of the conditions holds."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class AllOf:
    """Each of the conditions holds, in whatever order."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class NoneOf:
    """None of the conditions holds when every fact was seen. It rests on no fact, so no rule is made of it alone."""

    parts: tuple["Condition", ...]


Condition = Leaf | Count | Sequence | AnyOf | AllOf | NoneOf


@dataclass(frozen=True)
class Rule:
    """One rule: what it asks, what a yes means and counts (0 to 100), and an example of a yes and of a near miss."""

    id: str
    title: str
    description: str
    techniques: tuple[str, ...]
    score: int
    platforms: frozenset[str]
    references: tuple[str, ...]
    when: Condition
    hits: tuple[tuple[Any, ...], ...]
    misses: tuple[tuple[Any, ...], ...]
    file: str = ""
