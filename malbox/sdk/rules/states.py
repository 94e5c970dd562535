"""How far each condition of a rule is with the facts so far, what it rests on, and what a bound kept from it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from malbox.sdk.rules.model import AllOf, AnyOf, Condition, Count, Fact, Leaf, NoneOf, Sequence, Value

EVIDENCE_MAX = 10
KEYS_MAX = 5_000


class State(ABC):
    """How far one condition is with the facts so far."""

    @abstractmethod
    def listeners(self) -> "Iterator[tuple[Leaf, Listener, int]]":
        """Who is to be told of which leaf, and as which step."""

    @abstractmethod
    def holds(self) -> bool:
        """Whether the condition is met."""

    @abstractmethod
    def evidence(self) -> Iterator[int]:
        """The facts that it rests on: first what it cannot do without."""

    @abstractmethod
    def total(self) -> int:
        """How many facts it rests on."""

    def is_cut(self) -> bool:
        """Whether a bound kept something out that might have met the condition."""
        return False

    def cut(self) -> None:  # noqa: B027 - only what is met by an absence minds
        """Facts are missing."""


class Listener(State):
    """A condition that facts are counted for itself, not for its parts."""

    @abstractmethod
    def take(self, number: int, fact: Fact, step: int) -> bool:
        """A fact passed the leaf. Whether it may be evidence."""


@dataclass
class _Counting(Listener):
    """A leaf, or so many of it."""

    of: Leaf
    at_least: int = 1
    distinct: str | None = None
    numbers: list[int] = field(default_factory=list)
    count: int = 0
    values: set[Value | None] = field(default_factory=set)

    def listeners(self) -> Iterator[tuple[Leaf, Listener, int]]:
        yield self.of, self, 0

    def take(self, number: int, fact: Fact, step: int) -> bool:
        del step
        if self.distinct is not None and not self.holds():
            value = fact.fields.get(self.distinct)
            if value in self.values:
                return False
            self.values.add(value)
        self.count += 1
        if len(self.numbers) < EVIDENCE_MAX:
            self.numbers.append(number)
            return True
        return False

    def holds(self) -> bool:
        return self.count >= self.at_least

    def evidence(self) -> Iterator[int]:
        return iter(self.numbers if self.holds() else ())

    def total(self) -> int:
        return self.count if self.holds() else 0


@dataclass
class _Following(Listener):
    """One step after the other, for each value of the field that is to be the same."""

    steps: tuple[Leaf, ...]
    same: str | None
    begun: dict[Value | None, list[int]] = field(default_factory=dict)
    whole: list[list[int]] = field(default_factory=list)
    count: int = 0
    has_cut: bool = False

    def listeners(self) -> Iterator[tuple[Leaf, Listener, int]]:
        for step in reversed(range(len(self.steps))):  # the last first: a fact is at most one step of a sequence
            yield self.steps[step], self, step

    def take(self, number: int, fact: Fact, step: int) -> bool:
        key = fact.fields.get(self.same) if self.same is not None else None
        so_far = self.begun.get(key)
        if so_far is None:
            if step or len(self.begun) >= KEYS_MAX:
                self.has_cut |= not step
                return False
            so_far = self.begun[key] = []
        if len(so_far) != step or (so_far and so_far[-1] == number):
            return False
        so_far.append(number)
        if len(so_far) == len(self.steps):
            del self.begun[key]
            self.count += 1
            if len(self.whole) < EVIDENCE_MAX:
                self.whole.append(so_far)
        return True

    def holds(self) -> bool:
        return self.count > 0

    def evidence(self) -> Iterator[int]:
        return (number for numbers in self.whole for number in numbers)

    def total(self) -> int:
        return self.count * len(self.steps)

    def is_cut(self) -> bool:
        return self.has_cut and not self.holds()


@dataclass
class _Joined(State):
    """Several conditions: one of them, or all."""

    parts: tuple[State, ...]
    is_all: bool

    def listeners(self) -> Iterator[tuple[Leaf, Listener, int]]:
        for part in self.parts:
            yield from part.listeners()

    def holds(self) -> bool:
        return (all if self.is_all else any)(part.holds() for part in self.parts)

    def evidence(self) -> Iterator[int]:
        """Of each part the first, then of each the second: a bound leaves no part without."""
        waiting = [part.evidence() for part in self.parts if part.holds()]
        while waiting:
            for one in tuple(waiting):
                number = next(one, None)
                if number is None:
                    waiting.remove(one)
                else:
                    yield number

    def total(self) -> int:
        return sum(part.total() for part in self.parts if part.holds())

    def is_cut(self) -> bool:
        return any(part.is_cut() for part in self.parts)

    def cut(self) -> None:
        for part in self.parts:
            part.cut()


@dataclass
class _Absent(State):
    """None of several conditions: known only when no fact is missing. It rests on no fact."""

    parts: tuple[State, ...]
    misses_facts: bool = False

    def listeners(self) -> Iterator[tuple[Leaf, Listener, int]]:
        for part in self.parts:
            yield from part.listeners()

    def holds(self) -> bool:
        return not self.misses_facts and not any(part.holds() or part.is_cut() for part in self.parts)

    def evidence(self) -> Iterator[int]:
        return iter(())

    def total(self) -> int:
        return 0

    def is_cut(self) -> bool:
        return any(part.is_cut() for part in self.parts)

    def cut(self) -> None:
        self.misses_facts = True


def state_of(condition: Condition) -> State:
    """How far the condition is before there is a fact."""
    match condition:
        case Leaf():
            return _Counting(condition)
        case Count():
            return _Counting(condition.of, condition.at_least, condition.distinct)
        case Sequence():
            return _Following(condition.steps, condition.same)
        case AnyOf():
            return _Joined(tuple(state_of(part) for part in condition.parts), is_all=False)
        case AllOf():
            return _Joined(tuple(state_of(part) for part in condition.parts), is_all=True)
        case NoneOf():
            return _Absent(tuple(state_of(part) for part in condition.parts))
